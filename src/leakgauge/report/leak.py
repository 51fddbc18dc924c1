"""The verdict on a whole run, from the verdicts of its audits."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from leakgauge.records import Cell, Header
from leakgauge.report.formats import FORMATS
from leakgauge.report.wording import beyond, listed, plain, plural, setting

MISSING_SCORES = (
    "An example that the attack did not reconstruct did not leak. An example without a score or a control is not"
    " judged."
)
"""What every rule says about examples without a reconstruction or a score."""


def convention(header: Header) -> str:
    """Return, in words, the rules that decide whether an example of the run leaked."""
    if not header.rules:
        return "There is no rule for the data of this run, so nothing is judged."
    return " ".join([*(rule.text for rule in header.rules), MISSING_SCORES])


@dataclass(frozen=True)
class Verdict:
    """The sentence at the top of the page, and the facts below it.

    Args:
        tone: "leak", "held", or "open" if there is no verdict.
        sentence: The verdict.
        worst: The example that leaked most, or an empty string.
        held: Settings of defenses that held, or an empty string.
        broken: Settings of defenses that did not hold, or an empty string.
        caveat: Reasons for caution, or an empty string.
    """

    tone: str
    sentence: str
    worst: str
    held: str
    broken: str
    caveat: str


def verdict(cells: Sequence[Cell]) -> Verdict:
    """Return the verdict on a run, in words."""
    judged = [cell for cell in cells if cell.verdict.leaks is not None]
    open_ = [cell for cell in judged if cell.undefended]
    defended = [cell for cell in judged if not cell.undefended]
    held, broken = _settings(judged)
    tone, sentence = _sentence(cells, open_, defended)
    caveat = ""
    weak = [c for c in judged if not c.verdict.leaks and c.status in ("unconverged", "diverged")]
    if weak:
        verb = "audit without a leak ended" if len(weak) == 1 else "audits without a leak ended"
        caveat = f"{len(weak)} {verb} before the attack converged. This is weak evidence of safety."
    caveat = " ".join(text for text in (caveat, _silent(cells)) if text)
    return Verdict(tone, sentence, _worst(judged), listed(held), listed(broken), caveat)


def _silent(cells: Sequence[Cell]) -> str:
    """Return a caution about updates of zeros, or an empty string if there are none."""
    silent = sum(cell.silent for cell in cells)
    if not silent:
        return ""
    verb = "audit observed" if silent == 1 else "audits observed"
    return (
        f"{silent} {verb} an update of zeros, which shows neither leakage nor safety. Check the learning rate, the"
        " loss and the defense's strength."
    )


def _sentence(
    cells: Sequence[Cell], open_: Sequence[Cell], defended: Sequence[Cell]
) -> tuple[str, str]:
    """Return the tone and the sentence of the verdict."""
    if not cells:
        return "open", "No verdict: this run holds no audits."
    if not open_ and not defended:
        return "open", f"No verdict: {_unjudged(cells)}."
    leaking, despite = _leaking(open_), _leaking(defended)
    # A reader may think that a score "below" the control's is worse. The sentence then says "beyond".
    side = "above" if beyond(cell.data.headline for cell in cells) == "above" else "beyond"
    what = f"at least one example scored far {side} the blind control"
    if leaking:
        of = plural(len(open_), "undefended audit")
        return "leak", f"Private data leaked: in {leaking} of {of}, {what}."
    if despite:
        of = plural(len(defended), "defended audit")
        return "leak", f"Private data leaked through a defense: in {despite} of {of}, {what}."
    broken = sum(cell.failed for cell in cells if cell.undefended)
    if broken:
        of = plural(sum(cell.undefended for cell in cells), "undefended audit")
        return "open", (
            f"No leak was found, but {broken} of {of} failed. In the others, no example scored far {side} the blind"
            " control."
        )
    tested = plural(len(open_ or defended), ("un" if open_ else "") + "defended audit")
    held = f"No leak was found: in {tested}, no example scored far {side} the blind control."
    return "held", held


def _leaking(cells: Sequence[Cell]) -> int:
    """Return the number of audits that leaked."""
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
        return f"{who} are inapplicable, are unscored or observed an update of zeros"
    return f"{who} {'is' if one else 'are'} inapplicable or unscored"


def _worst(cells: Sequence[Cell]) -> str:
    """Return the example that leaked most, in words, or an empty string if none leaked.

    Examples are compared by the order of their formats in FORMATS, then undefended before defended, then by leakage.
    """
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
    result = headline.reads_exactly if exact else headline.reads
    result = result.replace("{score}", text(score))
    return f"{where}{behind}: {result} (control {text(control)})."


def _leakage(cell: Cell, score: float | None) -> float:
    """Return a number that grows with leakage. It is minus infinity if the score is missing."""
    return -math.inf if score is None else cell.data.headline.leakage(score)


def _at(values: Sequence[float | None], i: int) -> float | None:
    """Return value `i`, or None if there are fewer values."""
    return values[i] if i < len(values) else None


def partner(cell: Cell) -> tuple[object, ...]:
    """Return a key that a defended cell shares with the undefended cell to compare it with."""
    return (cell.case, cell.batch_size, cell.attack.name, cell.attack.repr, cell.threat.name)


def _settings(cells: Sequence[Cell]) -> tuple[list[str], list[str]]:
    """Return the settings that held wherever the undefended update leaked, and the settings that did not."""
    open_leaks = {partner(cell) for cell in cells if cell.undefended and cell.verdict.leaks}
    tried: dict[tuple[str, str], dict[str, bool]] = defaultdict(dict)
    for cell in cells:
        if not cell.undefended and partner(cell) in open_leaks:
            settings = tried[cell.defense.name, cell.defense.strength_name or ""]
            strength = cell.defense.setting
            key = plain(strength) if strength is not None else ""
            settings[key] = settings.get(key, False) or bool(cell.verdict.leaks)
    found: dict[bool, list[str]] = {False: [], True: []}
    for (defense, strength_name), settings in tried.items():
        for broke, names in found.items():
            values = [key for key, leaked_ in settings.items() if leaked_ is broke]
            if values:
                names.append(_at_strengths(defense, strength_name, values))
    return found[False], found[True]


def _at_strengths(defense: str, strength_name: str, values: Sequence[str]) -> str:
    """Return a defense with several strengths, such as `top_k (sparsity = 0.9, 0.99)`."""
    given = ", ".join(value for value in values if value)
    return f"{defense} ({strength_name or 'strength'} = {given})" if given else defense
