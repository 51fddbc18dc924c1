"""The cheapest setting of a defense that keeps leakage at the blind control, and why the others were refused.

A setting qualifies where no example leaks by the rule under any attack tried, an attack that reads the undefended
update was among them and ended on its own, and no more accuracy is lost than allowed. Cheapest: least accuracy lost;
of those within the standard error of the best, fewest bytes, then seconds where they differ by a tenth.
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
"""Ratio of seconds that counts as a difference: less is the machine's."""


class Reason(StrEnum):
    """Why a setting does not qualify."""

    LEAKS = "leaks"
    COSTS = "costs too much"
    WEAK = "weak evidence"
    UNTRIED = "not attacked"


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why a setting was not chosen: each reason by its name, and all in words."""

    setting: Setting
    reasons: tuple[Reason, ...]
    words: str


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """What to use in one case. `chosen` is None where nothing qualifies; `nearest` then says what came close.

    evidence: "firm", or "weak" where the chosen setting held, but an attack on it had not converged.
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
        """As a reader is told it."""
        told = [
            self.case,
            f"  {self.sentence}",
            *(f"  {text}" for text in (*self.why, *self.nearest)),
        ]
        if self.refused:
            told.append("  Refused:")
            told += [f"    {refusal.setting.name}: {refusal.words}" for refusal in self.refused]
        return [*told, f"  {self.caveat}"]

    def as_json(self) -> dict[str, Any]:
        """The same for a program; numbers that are not finite are null."""
        return {
            "case": self.case,
            "allowed_loss": self.allowed,
            "recommended": _told(self.chosen) if self.chosen else None,
            "evidence": self.evidence,
            "sentence": self.sentence,
            "why": list(self.why),
            "nearest": list(self.nearest),
            "refused": [
                {**_told(refusal.setting), "reasons": list(refusal.reasons), "words": refusal.words}
                for refusal in self.refused
            ],
            "caveat": self.caveat,
        }


def _told(setting: Setting) -> dict[str, Any]:
    """A setting's names and numbers."""
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
    """The recommendation for one case, where so much accuracy, in [0, 1], may be lost against no defense.

    `partial`: whether the run stopped early, so that the caveat says so.
    """
    reasons = {setting.repr: _reasons(setting, allowed) for setting in frontier.settings}
    firm = [setting for setting in frontier.settings if not reasons[setting.repr]]
    weak = [setting for setting in frontier.settings if reasons[setting.repr] == (Reason.WEAK,)]
    # Where nothing leaks without a defense, no attack can tell anything of one.
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
    """The cheapest of settings whose loss is known; None of none."""
    if not settings:
        return None
    best = min(settings, key=_loss)
    near = [s for s in settings if _loss(s) - _loss(best) <= (best.error or 0.0)]
    fewest = min(_known(s.bytes_a_round) for s in near)
    near = [s for s in near if _known(s.bytes_a_round) <= fewest]
    fastest = min(_known(s.seconds_a_round) for s in near)
    return min((s for s in near if _known(s.seconds_a_round) <= SLOWER * fastest), key=_loss)


def _loss(setting: Setting) -> float:
    return _known(setting.loss)


def _known(value: float | None) -> float:
    return float("inf") if value is None else value


def _reasons(setting: Setting, allowed: float) -> tuple[Reason, ...]:
    """Why a setting does not qualify; empty where it does."""
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
    told = {
        Reason.LEAKS: lambda: (
            f"leaks: {read(setting.worst)}" if setting.worst else Reason.LEAKS.value
        ),
        Reason.UNTRIED: lambda: f"no evidence: {why_untried(setting)}",
        Reason.COSTS: lambda: "its training diverged" if setting.diverged else f"{_lost(setting)}",
        Reason.WEAK: lambda: f"weak evidence: {why_weak(setting)}",
    }
    return "; ".join(told[reason]() for reason in reasons)


def read(exposure: Exposure | None) -> str:
    """What an attack read: `dlg, batch of 1, read 31.2 dB (blind control 9.1 dB)`."""
    if exposure is None:
        return "no attack could be judged"
    format_, unit = FORMATS[exposure.headline.format], exposure.headline.unit
    score, control = (format_.amount(v, unit) for v in (exposure.score, exposure.control))
    # An error is not what was read.
    verb = "read" if exposure.headline.better == "higher" else "scored"
    told = f"{exposure.attack}, batch of {exposure.batch_size}, {verb} {score} (blind control {control})"
    # A median over a batch may hide the one example that leaked.
    some = 0 < exposure.leaks < exposure.judged
    return told + (f", and {exposure.leaks} of {exposure.judged} examples leaked" if some else "")


def _lost(setting: Setting) -> str:
    if setting.loss is None:
        return "its training failed" if setting.untrained else "its accuracy is not known"
    if setting.loss <= 0:
        return "loses no accuracy"
    return f"loses {points(setting.loss)} of accuracy"


def _sentence(chosen: Setting | None, allowed: float, *, weak: bool) -> str:
    within = f"within {points(allowed)} of the accuracy without a defense"
    if chosen is None:
        return f"No setting tried keeps leakage at the blind control {within}."
    if not chosen.undefended:
        sentence = f"Use {chosen.name}: no example leaked, {within}."
    elif failed_of(chosen):
        sentence = "Nothing leaked without a defense, but not every audit ran to its end."
    else:
        sentence = "No defense is needed against these attacks: nothing leaked without one."
    return sentence + (f" The evidence is weak: {why_weak(chosen)}." if weak else "")


def _why(chosen: Setting, among: Sequence[Setting], frontier: Frontier) -> Iterator[str]:
    accuracy = (
        f"{_lost(chosen)}: {rate(chosen.accuracy)} of {frontier.tested} test examples are right"
    )
    error = f", known to {points(chosen.error)}" if chosen.error else ""
    yield f"It {accuracy}{error}; each round takes {size(chosen.bytes_a_round)} of all clients together."
    yield f"The most that an attack read: {read(chosen.worst)}."
    if chosen.epsilon is not None:
        yield f"Epsilon is {plain(chosen.epsilon)} at delta {plain(chosen.delta)}, {chosen.epsilon_note}."
    elif chosen.epsilon_note:
        yield f"Differential privacy: {chosen.epsilon_note}."
    best = min(among, key=_loss)
    if best is not chosen:
        yield (
            f"{best.name} loses less, by less than the test set can tell, and "
            + (
                "sends more."
                if _known(best.bytes_a_round) > _known(chosen.bytes_a_round)
                else "takes longer."
            )
        )
    idle = [e.attack for e in chosen.exposures if e.inapplicable]
    if idle:
        yield f"Not applicable to it, and so not tried: {together(dict.fromkeys(idle))}."


def _nearest(settings: Sequence[Setting], allowed: float) -> Iterator[str]:
    """The cheapest that held, and the least leaking that costs no more than allowed."""
    held = [
        s for s in settings if s.judged and not s.leaked and not s.diverged and not s.undefended
    ]
    if held:
        least = min(held, key=_loss)
        weak = ", on weak evidence" if Reason.WEAK in _reasons(least, allowed) else ""
        yield f"The cheapest that held{weak}: {least.name}; it {_lost(least)}."
    cheap = [s for s in settings if s.leaked and _loss(s) <= allowed and not s.undefended]
    if cheap:
        quietest = min(cheap, key=lambda s: (s.above, _loss(s)))
        yield f"The least leaking of those that cost no more: {quietest.name}; {read(quietest.worst)}."
    if not held and not cheap:
        yield "None came near."


def _caveat(frontier: Frontier, *, partial: bool) -> str:
    attacks = list(dict.fromkeys(e.attack for s in frontier.settings for e in s.exposures))
    sizes = sorted({e.batch_size for s in frontier.settings for e in s.exposures})
    return (
        f"All this is against {together(attacks)} with the budget of this run, on batches of"
        f" {together(map(str, sizes))}, and for {plural(frontier.rounds or 0, 'round')} of training:"
        " a stronger attack, more steps or more knowledge may read what these did not."
        + (" The run stopped early: not all that was planned is in it." if partial else "")
    )
