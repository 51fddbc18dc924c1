"""What the cells of a run say together, by the verdict that each one holds."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from leakgauge.records import Cell, Header
from leakgauge.report.formats import FORMATS
from leakgauge.report.wording import beyond, listed, plain, plural, setting

MISSING_SCORES = (
    "Where the attack has no guess, nothing leaked; where a score or its control is missing, the example is not"
    " judged."
)
"""What every rule does where there is nothing to compare."""


def convention(header: Header) -> str:
    """Return by which rules examples of a run count as leaked, for a reader."""
    if not header.rules:
        return "There is no rule for the data of this run, so that nothing is judged."
    return " ".join([*(rule.text for rule in header.rules), MISSING_SCORES])


@dataclass(frozen=True)
class Verdict:
    """The sentence on top, and the facts under it."""

    tone: str  # "leak", "held" or "open"
    sentence: str
    worst: str
    held: str
    broken: str
    caveat: str


def verdict(cells: Sequence[Cell]) -> Verdict:
    """What the cells say, in plain language."""
    judged = [cell for cell in cells if cell.verdict.leaks is not None]
    open_ = [cell for cell in judged if cell.undefended]
    defended = [cell for cell in judged if not cell.undefended]
    held, broken = _settings(judged)
    tone, sentence = _sentence(cells, open_, defended)
    caveat = ""
    weak = [c for c in judged if not c.verdict.leaks and c.status in ("unconverged", "diverged")]
    if weak:
        verb = "audit without a leak ended" if len(weak) == 1 else "audits without a leak ended"
        caveat = f"{len(weak)} {verb} before the attack converged: that is weak evidence of safety."
    caveat = " ".join(text for text in (caveat, _silent(cells)) if text)
    return Verdict(tone, sentence, _worst(judged), listed(held), listed(broken), caveat)


def _silent(cells: Sequence[Cell]) -> str:
    """Return what is said of updates without any signal, or an empty string if there are none."""
    silent = sum(cell.silent for cell in cells)
    if not silent:
        return ""
    verb = "audit observed" if silent == 1 else "audits observed"
    return (
        f"{silent} {verb} an update of zeros: nothing can be said about leakage there. Check the learning rate, the"
        " loss and the defense's strength."
    )


def _sentence(
    cells: Sequence[Cell], open_: Sequence[Cell], defended: Sequence[Cell]
) -> tuple[str, str]:
    if not cells:
        return "open", "No verdict: this run holds no audits."
    if not open_ and not defended:
        return "open", f"No verdict: {_unjudged(cells)}."
    leaking, despite = _leaking(open_), _leaking(defended)
    # A score below the control's may read as a worse one.
    side = "above" if beyond(cell.data.headline for cell in cells) == "above" else "beyond"
    what = f"at least one example was rebuilt far {side} the blind control"
    if leaking:
        of = plural(len(open_), "undefended audit")
        return "leak", f"Private data leaked: in {leaking} of {of} {what}."
    if despite:
        of = plural(len(defended), "defended audit")
        return "leak", f"Private data leaked through a defense: in {despite} of {of} {what}."
    broken = sum(cell.failed for cell in cells if cell.undefended)
    if broken:
        of = plural(sum(cell.undefended for cell in cells), "undefended audit")
        return "open", (
            f"No leak was found, but {broken} of {of} failed: in none of the others did an example stand far"
            f" {side} control."
        )
    tested = plural(len(open_ or defended), ("un" if open_ else "") + "defended audit")
    told = f"No leak was found: in none of {tested} did an example stand far {side} control."
    return "held", told


def _leaking(cells: Sequence[Cell]) -> int:
    return sum(bool(cell.verdict.leaks) for cell in cells)


def _unjudged(cells: Sequence[Cell]) -> str:
    """Return why no audit of a run could be judged."""
    one = len(cells) == 1
    who = "the only audit" if one else "all audits"
    if all(cell.failed for cell in cells):
        return f"{who} failed"
    if all(cell.inapplicable for cell in cells):
        return f"{who} {'is' if one else 'are'} inapplicable"
    if all(cell.silent for cell in cells):
        return f"{who} observed an update of zeros"
    failed = sum(cell.failed for cell in cells)
    if failed:
        return f"{failed} of {plural(len(cells), 'audit')} failed, and the others are inapplicable or unscored"
    if any(cell.silent for cell in cells):
        return f"{who} are inapplicable or unscored, or observed an update of zeros"
    return f"{who} {'is' if one else 'are'} inapplicable or unscored"


def _worst(cells: Sequence[Cell]) -> str:
    """Return the example that leaked most, by format as in FORMATS, undefended before defended."""
    order = list(FORMATS)[::-1]
    found = [
        (order.index(cell.data.headline.format), cell.undefended, _leakage(cell, score), cell, i)
        for cell in cells
        for i, score in enumerate(cell.values(cell.data.headline.metric))
        if cell.verdict.per_example[i : i + 1] == (True,)
    ]
    if not found:
        return ""
    *_, cell, i = max(found, key=lambda entry: entry[:3])
    headline, text = cell.data.headline, FORMATS[cell.data.headline.format].text
    score, control = cell.values(headline.metric)[i], _at(cell.blind_values(headline.metric), i)
    where = f"{cell.case}, batch of {cell.batch_size}, by {cell.attack.name}"
    behind = "" if cell.undefended else f", through {setting(cell)}"
    exact = score is not None and headline.exact(score)
    told = headline.reads_exactly if exact else headline.reads
    told = told.replace("{score}", text(score))
    return f"{where}{behind}: {told} (control {text(control)})."


def _leakage(cell: Cell, score: float | None) -> float:
    """Return a number that is larger the more leaked. A missing score is least."""
    return -math.inf if score is None else cell.data.headline.leakage(score)


def _at(values: Sequence[float | None], i: int) -> float | None:
    return values[i] if i < len(values) else None


def partner(cell: Cell) -> tuple[object, ...]:
    """What a defended cell shares with the undefended cell that it is compared with."""
    return (cell.case, cell.batch_size, cell.attack.name, cell.attack.repr, cell.threat.name)


def _settings(cells: Sequence[Cell]) -> tuple[list[str], list[str]]:
    """Settings that held wherever the undefended update leaked, and settings that did not."""
    open_leaks = {partner(cell) for cell in cells if cell.undefended and cell.verdict.leaks}
    tried: dict[tuple[str, str], dict[str, bool]] = defaultdict(dict)
    for cell in cells:
        if not cell.undefended and partner(cell) in open_leaks:
            settings = tried[cell.defense.name, cell.defense.strength_name or ""]
            strength = cell.defense.setting
            key = plain(strength) if strength is not None else ""
            settings[key] = settings.get(key, False) or bool(cell.verdict.leaks)
    told: dict[bool, list[str]] = {False: [], True: []}
    for (defense, strength_name), settings in tried.items():
        for broke, names in told.items():
            values = [key for key, leaked_ in settings.items() if leaked_ is broke]
            if values:
                names.append(_at_strengths(defense, strength_name, values))
    return told[False], told[True]


def _at_strengths(defense: str, strength_name: str, values: Sequence[str]) -> str:
    given = ", ".join(value for value in values if value)
    return f"{defense} ({strength_name or 'strength'} = {given})" if given else defense
