"""The convention by which an example counts as leaked, and the verdict that follows from it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from leakgauge.report.cells import Cell
from leakgauge.report.wording import decibels, listed, percent, plain, plural, setting

IMAGE_FLOOR = 20.0  # dB
IMAGE_MARGIN = 3.0  # dB: half the squared error of the control
SSIM_FLOOR = 0.5  # structure that a person sees, whatever the noise on it
TABLE_FLOOR = 0.5  # share of the columns
COLUMN_TOLERANCE = 0.01  # of a column's public range

RULE = (
    f"An image counts as leaked when its PSNR is at least {IMAGE_FLOOR:g} dB, or its SSIM at least"
    f" {SSIM_FLOOR:g}, and its PSNR is at least {IMAGE_MARGIN:g} dB above the blind control."
    " A table row counts as leaked when at least"
    f" {100 * TABLE_FLOOR:g}% of its columns are read, each within {100 * COLUMN_TOLERANCE:g}% of"
    " its public range, and more than the control reads. Where the attack has no guess, nothing"
    " leaked; where a score or its control is missing, the example is not judged."
)


def metric(kind: str) -> str:
    """The score that decides for this kind of data."""
    return "columns_read" if kind == "table" else "psnr"


def leaked(
    kind: str, score: float | None, control: float | None, ssim: float | None = None
) -> bool | None:
    """Whether one example leaked, by PSNR in dB or share of columns; None if not to be judged."""
    if kind not in ("image", "table") or score is None or control is None:
        return None
    if kind == "table":
        return score >= TABLE_FLOOR and score > control
    # The difference of two infinities is not a number, and so no leak: both found it blind.
    seen = score >= IMAGE_FLOOR or (ssim is not None and ssim >= SSIM_FLOOR)
    return seen and score - control >= IMAGE_MARGIN


def leaks(cell: Cell) -> tuple[bool | None, ...]:
    """Whether each example of a cell leaked; None where it cannot be judged."""
    if not cell.ran:
        return ()
    name, verdicts = metric(cell.kind), []
    for i in range(max(cell.batch_size, len(cell.scores.get(name, ())))):
        if i < len(cell.found) and not cell.found[i]:
            verdicts.append(False if cell.score(name, i) is not None else None)
        else:
            value, control = cell.score(name, i), cell.control(name, i)
            verdicts.append(leaked(cell.kind, value, control, cell.score("ssim", i)))
    return tuple(verdicts)


def any_leak(cell: Cell) -> bool | None:
    """Whether at least one example leaked; None where none can be judged."""
    judged = [verdict for verdict in leaks(cell) if verdict is not None]
    return any(judged) if judged else None


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
    judged = [cell for cell in cells if any_leak(cell) is not None]
    open_ = [cell for cell in judged if cell.undefended]
    defended = [cell for cell in judged if not cell.undefended]
    held, broken = _settings(judged)
    tone, sentence = _sentence(cells, open_, defended)
    caveat = ""
    weak = [c for c in judged if not any_leak(c) and c.status in ("unconverged", "diverged")]
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
    leaking, despite = sum(map(bool, map(any_leak, open_))), sum(map(bool, map(any_leak, defended)))
    what = "at least one example was rebuilt far above the blind control"
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
            " above control."
        )
    tested = plural(len(open_ or defended), ("un" if open_ else "") + "defended audit")
    return "held", f"No leak was found: in none of {tested} did an example stand far above control."


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
    """The example that stands highest, images before tables; undefended before defended."""
    found = [
        (cell.kind == "image", cell.undefended, cell.score(metric(cell.kind), i) or 0.0, cell, i)
        for cell in cells
        for i, verdict_ in enumerate(leaks(cell))
        if verdict_
    ]
    if not found:
        return ""
    *_, cell, i = max(found, key=lambda entry: entry[:3])
    name = metric(cell.kind)
    score, control = cell.score(name, i), cell.control(name, i)
    where = f"{cell.case}, batch of {cell.batch_size}, by {cell.attack}"
    behind = "" if cell.undefended else f", through {setting(cell)}"
    if cell.kind == "table":
        told = f"{percent(score)} of a row's columns read (control {percent(control)})"
        return f"{where}{behind}: {told}."
    rebuilt = "exactly" if score == math.inf else f"at {decibels(score)}"
    return f"{where}{behind}: rebuilt {rebuilt} (control {decibels(control)})."


def partner(cell: Cell) -> tuple[object, ...]:
    """What a defended cell shares with the undefended cell that it is compared with."""
    return (cell.case, cell.batch_size, cell.attack, cell.attack_repr, cell.threat)


def _settings(cells: Sequence[Cell]) -> tuple[list[str], list[str]]:
    """Settings that held wherever the undefended update leaked, and settings that did not."""
    open_leaks = {partner(cell) for cell in cells if cell.undefended and any_leak(cell)}
    tried: dict[tuple[str, str], dict[str, bool]] = defaultdict(dict)
    for cell in cells:
        if not cell.undefended and partner(cell) in open_leaks:
            settings = tried[cell.defense, cell.strength_name or ""]
            key = plain(cell.strength) if cell.strength is not None else ""
            settings[key] = settings.get(key, False) or bool(any_leak(cell))
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
