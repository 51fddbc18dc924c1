"""The cheapest setting of a defense that keeps leakage at the blind control, and why the others were refused.

A setting qualifies if all of these conditions hold:

- No example leaks by the rule under any attack that was tried.
- At least one of these attacks leaks the undefended update.
- The loss of accuracy is at most the allowed one.
- The evidence is firm: each attack that counts as evidence converged, none of its audits failed, and no update was all
  zeros.

If no setting has firm evidence, settings that meet the other conditions qualify, and the evidence is called weak.

Costs are compared in three steps. First, all settings remain whose loss exceeds the least loss by at most its standard
error. Of these, the settings that send the fewest bytes remain, and then those that take at most 1.1 times the shortest
time. Of the rest, the setting that loses the least accuracy is the cheapest. If the undefended setting qualifies, no
defense is recommended.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from leakgauge.report.defaults import LOSS
from leakgauge.report.evidence import evidence_of, failed_of, silent_of, why_untried, why_weak
from leakgauge.report.formats import FORMATS
from leakgauge.report.frontier import Exposure, Frontier, Setting
from leakgauge.report.wording import plain, plural, points, rate, size, together

SLOWER = 1.1
"""Ratio of durations above which two settings differ. A smaller ratio may be due to other load on the machine."""


class Reason(StrEnum):
    """Why a setting does not qualify."""

    LEAKS = "leaks"
    COSTS = "costs too much"
    WEAK = "weak evidence"
    UNTRIED = "not attacked"


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """The reasons why a setting was not chosen, by name and in words."""

    setting: Setting
    reasons: tuple[Reason, ...]
    words: str


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """The recommended setting of one case.

    Args:
        case: Name of the case.
        allowed: Largest loss of test accuracy that was allowed, a fraction in [0, 1].
        chosen: The recommended setting, or None if no setting qualifies.
        evidence: "firm", "weak", or None if nothing was chosen. Evidence is weak if the chosen setting held, but an
            attack on it had not converged, had failed, or had observed an update of zeros.
        sentence: The recommendation in one sentence.
        why: Reasons for it, one sentence each.
        nearest: If no setting qualifies, sentences about the settings that came near.
        refused: All other settings, with reasons.
        caveat: Limits of the evidence, in sentences.
    """

    case: str
    allowed: float
    chosen: Setting | None
    evidence: Literal["firm", "weak"] | None
    sentence: str
    why: tuple[str, ...]
    nearest: tuple[str, ...]
    refused: tuple[Refusal, ...]
    caveat: str

    def lines(self) -> list[str]:
        """Return the recommendation as lines of text."""
        found = [
            self.case,
            f"  {self.sentence}",
            *(f"  {text}" for text in (*self.why, *self.nearest)),
        ]
        if self.refused:
            found.append("  Refused:")
            found += [f"    {refusal.setting.name}: {refusal.words}" for refusal in self.refused]
        return [*found, f"  {self.caveat}"]

    def as_json(self) -> dict[str, Any]:
        """Return the recommendation as values for JSON. Numbers that are not finite become None."""
        return {
            "case": self.case,
            "allowed_loss": self.allowed,
            "recommended": _setting_as_json(self.chosen) if self.chosen else None,
            "evidence": self.evidence,
            "sentence": self.sentence,
            "why": list(self.why),
            "nearest": list(self.nearest),
            "refused": [
                {
                    **_setting_as_json(refusal.setting),
                    "reasons": list(refusal.reasons),
                    "words": refusal.words,
                }
                for refusal in self.refused
            ],
            "caveat": self.caveat,
        }


def _setting_as_json(setting: Setting) -> dict[str, Any]:
    """Return a setting's names and numbers as values for JSON."""
    worst = setting.worst
    numbers = {
        "leakage": worst.score if worst else None,
        "control": worst.control if worst else None,
        "accuracy": setting.accuracy,
        "loss": setting.loss,
        "bytes_a_round": setting.bytes_a_round,
        "seconds_a_round": setting.seconds_a_round,
        "epsilon": setting.epsilon,
    }
    return {
        "defense": setting.defense,
        "strength_name": setting.strength_name,
        "strength": setting.strength,
        "repr": setting.repr,
        "attack": worst.attack if worst else None,
        "leaked": setting.leaked,
        **{k: v if v is not None and math.isfinite(v) else None for k, v in numbers.items()},
        "dominated_by": setting.dominated_by,
    }


def recommend(
    frontier: Frontier, allowed: float = LOSS, *, partial: bool = False
) -> Recommendation:
    """Return the recommendation for one case.

    Args:
        frontier: All settings of the case.
        allowed: Largest loss of test accuracy against no defense, a fraction in [0, 1].
        partial: Whether the run stopped early. The caveat then says so.
    """
    reasons = {setting.repr: _reasons(setting, allowed) for setting in frontier.settings}
    firm = [setting for setting in frontier.settings if not reasons[setting.repr]]
    weak = [setting for setting in frontier.settings if reasons[setting.repr] == (Reason.WEAK,)]
    # If nothing leaks without a defense, no defense is needed, and no attack gives evidence about one.
    bare = next((setting for setting in firm or weak if setting.undefended), None)
    chosen = bare or cheapest(firm or weak)
    refused = [
        Refusal(setting=setting, reasons=found, words=_words(setting, found))
        for setting in frontier.settings
        if (found := reasons[setting.repr]) and setting is not chosen
    ]
    return Recommendation(
        case=frontier.case,
        allowed=allowed,
        chosen=chosen,
        evidence=None if chosen is None else ("firm" if firm else "weak"),
        sentence=_sentence(chosen, allowed, weak=not firm),
        why=tuple(_why(chosen, firm or weak, frontier)) if chosen else (),
        nearest=() if chosen else tuple(_nearest(frontier.settings, allowed)),
        refused=tuple(refused),
        caveat=_caveat(frontier, partial=partial),
    )


def cheapest(settings: Sequence[Setting]) -> Setting | None:
    """Return the cheapest setting, or None if there are no settings."""
    if not settings:
        return None
    best = min(settings, key=_loss)
    near = [s for s in settings if _loss(s) - _loss(best) <= (best.error or 0.0)]
    fewest = min(_known(s.bytes_a_round) for s in near)
    near = [s for s in near if _known(s.bytes_a_round) <= fewest]
    fastest = min(_known(s.seconds_a_round) for s in near)
    return min((s for s in near if _known(s.seconds_a_round) <= SLOWER * fastest), key=_loss)


def _loss(setting: Setting) -> float:
    """Return the accuracy lost by a setting, or infinity if it is unknown."""
    return _known(setting.loss)


def _known(value: float | None) -> float:
    """Return the value, or infinity if it is None."""
    return float("inf") if value is None else value


def _reasons(setting: Setting, allowed: float) -> tuple[Reason, ...]:
    """Return the reasons why a setting does not qualify. The result is empty if it qualifies."""
    found: list[Reason] = []
    if setting.leaked:
        found.append(Reason.LEAKS)
    if not evidence_of(setting):
        found.append(Reason.UNTRIED)
    if setting.diverged or _loss(setting) > allowed + 1e-12:
        found.append(Reason.COSTS)
    weak = any(e.weak for e in evidence_of(setting)) or failed_of(setting) or silent_of(setting)
    if not setting.leaked and weak:
        found.append(Reason.WEAK)
    return tuple(found)


def _words(setting: Setting, reasons: Sequence[Reason]) -> str:
    """Return the reasons why a setting was refused, in words."""
    words = {
        Reason.LEAKS: lambda: (
            f"leaks: {describe(setting.worst)}" if setting.worst else Reason.LEAKS.value
        ),
        Reason.UNTRIED: lambda: f"no evidence: {why_untried(setting)}",
        Reason.COSTS: lambda: "its training diverged" if setting.diverged else f"{_lost(setting)}",
        Reason.WEAK: lambda: f"weak evidence: {why_weak(setting)}",
    }
    return "; ".join(words[reason]() for reason in reasons)


def describe(exposure: Exposure | None) -> str:
    """Return the result of an attack in words: `dlg, batch of 1, scored 31.2 dB (blind control 9.1 dB)`."""
    if exposure is None:
        return "no attack could be judged"
    format_, unit = FORMATS[exposure.headline.format], exposure.headline.unit
    score, control = (format_.amount(v, unit) for v in (exposure.score, exposure.control))
    where = f"{exposure.attack}, batch of {exposure.batch_size}"
    scored = "was exact" if score == "exact" else f"scored {score}"
    result = f"{where}, {scored} (blind control {control})"
    # A median over a batch may hide that some examples leaked.
    some = 0 < exposure.leaks < exposure.judged
    return result + (f", and {exposure.leaks} of {exposure.judged} examples leaked" if some else "")


def _lost(setting: Setting) -> str:
    """Return the accuracy lost by a setting, in words."""
    if setting.loss is None:
        return "its training failed" if setting.untrained else "its accuracy is not known"
    if setting.loss <= 0:
        return "loses no accuracy"
    return f"loses {points(setting.loss)} of accuracy"


def _sentence(chosen: Setting | None, allowed: float, *, weak: bool) -> str:
    """Return the recommendation in one sentence, and a second one if the evidence is weak."""
    within = f"within {points(allowed)} of training without a defense"
    if chosen is None:
        return f"No setting tried is known to stop all leaks and to keep accuracy {within}."
    if not chosen.undefended:
        sentence = f"Use {chosen.name}: no example leaked, and accuracy stays {within}."
    elif failed_of(chosen):
        sentence = "Nothing leaked without a defense, but not every audit ran to its end."
    else:
        sentence = "No defense is needed against these attacks: nothing leaked without one."
    return sentence + (f" The evidence is weak: {why_weak(chosen)}." if weak else "")


def _why(chosen: Setting, among: Sequence[Setting], frontier: Frontier) -> Iterator[str]:
    """Yield the reasons for the chosen setting, one sentence each."""
    accuracy = (
        f"{_lost(chosen)}: {rate(chosen.accuracy)} of {frontier.tested} test examples are right"
    )
    error = f" (standard error {points(chosen.error)})" if chosen.error else ""
    yield f"It {accuracy}{error}. All clients together send {size(chosen.bytes_a_round)} per round."
    yield f"The strongest attack: {describe(chosen.worst)}."
    if chosen.epsilon is not None:
        yield f"Epsilon is {plain(chosen.epsilon)} at delta {plain(chosen.delta)}, {chosen.epsilon_note}."
    elif chosen.epsilon_note:
        yield f"Differential privacy: {chosen.epsilon_note}."
    best = min(among, key=_loss)
    if best is not chosen:
        yield (
            f"{best.name} loses less accuracy, but the difference is within the standard error, and it "
            + (
                "sends more."
                if _known(best.bytes_a_round) > _known(chosen.bytes_a_round)
                else "takes longer."
            )
        )
    idle = [e.attack for e in chosen.exposures if e.inapplicable]
    if idle:
        yield f"Attacks that are not applicable to this setting: {together(dict.fromkeys(idle))}."


def _nearest(settings: Sequence[Setting], allowed: float) -> Iterator[str]:
    """Yield the cheapest setting that held, and the setting within the allowed loss that leaked least."""
    held = [
        s for s in settings if s.judged and not s.leaked and not s.diverged and not s.undefended
    ]
    if held:
        least = min(held, key=_loss)
        weak = ", on weak evidence" if Reason.WEAK in _reasons(least, allowed) else ""
        yield f"The cheapest setting that held{weak}: {least.name}. It {_lost(least)}."
    cheap = [s for s in settings if s.leaked and _loss(s) <= allowed and not s.undefended]
    if cheap:
        quietest = min(cheap, key=lambda s: (s.above, _loss(s)))
        yield (
            f"The setting within the allowed loss that leaked least: {quietest.name}."
            f" The strongest attack on it: {describe(quietest.worst)}."
        )
    if not held and not cheap:
        yield "No setting came near."


def _caveat(frontier: Frontier, *, partial: bool) -> str:
    """Return the limits of the evidence, in sentences."""
    attacks = list(dict.fromkeys(e.attack for s in frontier.settings for e in s.exposures))
    sizes = sorted({e.batch_size for s in frontier.settings for e in s.exposures})
    return (
        f"This holds against {together(attacks)} with the budget of this run, on batches of"
        f" {together(map(str, sizes))}, and for {plural(frontier.rounds or 0, 'round')} of training."
        " A stronger attack, more steps or more knowledge may leak more."
        + (" The run stopped early, so planned audits are missing." if partial else "")
    )
