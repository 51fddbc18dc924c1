"""What the audits of a setting tell of its defense, and why they may tell too little."""

from __future__ import annotations

from leakgauge.report.frontier import Exposure, Setting
from leakgauge.report.wording import together


def evidence_of(setting: Setting) -> list[Exposure]:
    """Return the attacks that tell something of a defense: those that read the undefended update, if any does."""
    if setting.undefended or not any(exposure.telling for exposure in setting.exposures):
        return list(setting.judged)
    return [exposure for exposure in setting.judged if exposure.telling]


def failed_of(setting: Setting) -> list[Exposure]:
    """Return the attacks that would tell something of a defense, had none of their audits failed."""
    told = setting.undefended or not any(exposure.telling for exposure in setting.exposures)
    return [e for e in setting.exposures if e.failed and (told or e.telling)]


def silent_of(setting: Setting) -> list[Exposure]:
    """Return the attacks of which an audit observed an update of zeros."""
    return [exposure for exposure in setting.exposures if exposure.silent]


def why_untried(setting: Setting) -> str:
    """Return why there is no evidence of a setting."""
    if failed_of(setting):
        return f"{together(dict.fromkeys(e.attack for e in failed_of(setting)))} failed on it"
    if silent_of(setting):
        return "its update is all zeros, so that nothing was observed"
    if any(exposure.inapplicable for exposure in setting.exposures):
        return "no attack that reads the undefended update is applicable to it"
    return "no attack on it could be judged"


def why_weak(setting: Setting) -> str:
    """Return why the evidence of a setting is weak, by the attacks that say too little."""
    weak = dict.fromkeys(e.attack for e in evidence_of(setting) if e.weak)
    failed = dict.fromkeys(e.attack for e in failed_of(setting))
    silent = dict.fromkeys(e.attack for e in silent_of(setting))
    told = [
        f"{together(weak)} had not converged" if weak else "",
        f"an audit by {together(failed)} failed" if failed else "",
        f"an audit by {together(silent)} observed an update of zeros" if silent else "",
    ]
    return ", and ".join(text for text in told if text)
