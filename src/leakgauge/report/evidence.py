"""The evidence that audits give about a setting of a defense, and why it may be weak or absent."""

from __future__ import annotations

from leakgauge.report.frontier import Exposure, Setting
from leakgauge.report.wording import together


def evidence_of(setting: Setting) -> list[Exposure]:
    """Return the judged attacks whose result counts as evidence about the setting.

    These are the attacks for which an undefended update leaks. If there is no such attack, or the setting is
    undefended, all judged attacks count.
    """
    if setting.undefended or not any(exposure.informative for exposure in setting.exposures):
        return list(setting.judged)
    return [exposure for exposure in setting.judged if exposure.informative]


def failed_of(setting: Setting) -> list[Exposure]:
    """Return the attacks that would count as evidence if none of their audits had failed."""
    all_count = setting.undefended or not any(e.informative for e in setting.exposures)
    return [e for e in setting.exposures if e.failed and (all_count or e.informative)]


def silent_of(setting: Setting) -> list[Exposure]:
    """Return the attacks with an audit that observed an update of zeros."""
    return [exposure for exposure in setting.exposures if exposure.silent]


def why_untried(setting: Setting) -> str:
    """Return why there is no evidence about a setting."""
    if failed_of(setting):
        return f"{together(dict.fromkeys(e.attack for e in failed_of(setting)))} failed on it"
    if silent_of(setting):
        return "its update is all zeros, so nothing was observed"
    if any(exposure.inapplicable for exposure in setting.exposures):
        return "no attack that leaks the undefended update is applicable to it"
    return "no attack on it could be judged"


def why_weak(setting: Setting) -> str:
    """Return why the evidence about a setting is weak, with the names of the attacks."""
    weak = dict.fromkeys(e.attack for e in evidence_of(setting) if e.weak)
    failed = dict.fromkeys(e.attack for e in failed_of(setting))
    silent = dict.fromkeys(e.attack for e in silent_of(setting))
    reasons = [
        f"{together(weak)} had not converged" if weak else "",
        f"an audit by {together(failed)} failed" if failed else "",
        f"an audit by {together(silent)} observed an update of zeros" if silent else "",
    ]
    return ", and ".join(text for text in reasons if text)
