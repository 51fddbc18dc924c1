"""What an undefended audit shows: originals beside reconstructions beside the blind control."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from leakgauge.records import Cell, Column, Rows, Sides
from leakgauge.report.formats import FORMATS
from leakgauge.report.pictures import Album
from leakgauge.report.wording import (
    IIP,
    LPIPS,
    MS_SSIM,
    SSIM,
    count,
    decibels,
    knowledge,
    measured,
    plain,
    remedy,
)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How examples of one layout are arranged.

    Args:
        first: examples that are shown before the others are folded away.
        single, few, many: the class of the style sheet for 1, 2 to 3, and more examples.
        beside: whether the trajectory of the attack stands beside a single example.
    """

    first: int
    single: str
    few: str
    many: str
    beside: bool

    def style(self, count: int) -> str:
        """Return the class of the style sheet for a batch of `count` examples."""
        return self.single if count == 1 else self.few if count <= 3 else self.many


LAYOUTS = {
    "pictures": Layout(
        first=8, single="tiles single", few="tiles", many="tiles stacked", beside=True
    ),
    "rows": Layout(first=3, single="sheets", few="sheets", many="sheets", beside=False),
}
"""By the name in a record. cases.html.j2 has a macro for each."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One column of one private row, in the column's unit; `hit` where it was read."""

    column: str
    range: str
    original: str
    reconstruction: str
    control: str
    hit: bool
    control_hit: bool


@dataclass(frozen=True, kw_only=True)
class Example:
    """One private example with what was made of it. Pictures are data URIs."""

    name: str
    label: str
    leaked: bool | None
    pictures: dict[str, str | None]
    scores: list[str]
    control_scores: list[str]
    guess: bool | None
    identified: str
    readings: list[Reading]


@dataclass(frozen=True, kw_only=True)
class Glance:
    """One thumbnail of the trajectory with its captions."""

    picture: str | None
    evaluations: str
    objective: str
    psnr: str


@dataclass(frozen=True, kw_only=True)
class Block:
    """One audit in the gallery."""

    cell: Cell
    layout: Layout
    examples: list[Example]
    rest: list[Example]
    glances: list[Glance]
    known: list[str]
    withheld: list[str]
    remedy: str
    leaked: int
    judged: int


@dataclass(frozen=True, kw_only=True)
class Case:
    """One case: its undefended audits, and those that could not be run or failed."""

    name: str
    first: Cell
    blocks: list[Block]
    skipped: list[Cell]


def cases(cells: Sequence[Cell], album: Album) -> list[Case]:
    """The cases in the order of the records, each with its blocks by batch size."""
    found = []
    for name in dict.fromkeys(cell.case for cell in cells):
        mine = [cell for cell in cells if cell.case == name]
        shown = [cell for cell in mine if cell.undefended and cell.ran]
        shown.sort(key=lambda cell: cell.batch_size)
        found.append(
            Case(
                name=name,
                first=mine[0],
                blocks=[block(cell, album) for cell in shown],
                skipped=[cell for cell in mine if cell.undefended and not cell.ran],
            )
        )
    return found


def block(cell: Cell, album: Album) -> Block:
    """One audit, ready for the page; long batches keep their later examples folded away."""
    known, withheld = knowledge(cell)
    verdicts = cell.verdict.per_example
    examples = [_example(cell, i, verdicts, album) for i in range(cell.batch_size)]
    layout = LAYOUTS[cell.data.layout]
    return Block(
        cell=cell,
        layout=layout,
        examples=examples[: layout.first],
        rest=examples[layout.first :],
        glances=[
            Glance(
                picture=album.uri(moment.image),
                evaluations=count(moment.evaluations),
                objective=plain(moment.objective),
                psnr=decibels(moment.psnr),
            )
            for moment in cell.trajectory
        ],
        known=known,
        withheld=withheld,
        remedy=remedy(cell),
        leaked=sum(bool(verdict) for verdict in verdicts),
        judged=sum(verdict is not None for verdict in verdicts),
    )


def read_within(value: float | None, truth: float | None, column: Column) -> bool:
    """Return whether a value lies within the column's tolerance from the truth."""
    if value is None or truth is None:
        return False
    # The slack absorbs rounding in the difference, so that exactly the tolerance counts as read.
    return abs(value - truth) <= column.tolerance * (1 + 1e-9)


def _example(cell: Cell, i: int, verdicts: Sequence[bool | None], album: Album) -> Example:
    right = _at(cell.values("label"), i)
    index = cell.data.examples[i : i + 1] or (i + 1,)
    return Example(
        name=f"example {index[0]}",
        label=_item(cell.data.label_names, i),
        leaked=verdicts[i] if i < len(verdicts) else None,
        pictures={
            side: album.uri(_item(getattr(cell.images, side), i)) if cell.images else None
            for side in Sides.model_fields
        },
        scores=_scores(cell, i, control=False),
        control_scores=_scores(cell, i, control=True),
        guess=None if right is None else right >= 0.5,
        identified=_identified(cell, i),
        readings=[_reading(cell, i, j, column) for j, column in enumerate(cell.data.columns or ())],
    )


def _scores(cell: Cell, i: int, *, control: bool) -> list[str]:
    values = cell.blind_values if control else cell.values
    headline = cell.data.headline
    first = _at(values(headline.metric), i)
    told = [FORMATS[headline.format].read(first, headline)]
    scores = {measure: _at(values(measure.names[0]), i) for measure in (SSIM, MS_SSIM, LPIPS)}
    if headline.metric != "psnr" and "psnr" in cell.scores:
        told.append(decibels(_at(values("psnr"), i)))
    return told + [
        f"{m.heading} {m.text(value)}" for m, value in scores.items() if value is not None
    ]


def _identified(cell: Cell, i: int) -> str:
    """Whether the reconstruction points at its own original, and among how many images."""
    name = IIP.name(cell)
    value = _at(cell.values(name), i) if name is not None else None
    if value is None or cell.candidates is None:
        return ""
    return f"{'identified' if value >= 0.5 else 'not identified'} among {cell.candidates}"


def _reading(cell: Cell, i: int, j: int, column: Column) -> Reading:
    truth, guess, blind = (_value(getattr(cell.rows, side, ()), i, j) for side in Rows.model_fields)
    unit = f" {column.unit}" if column.unit else ""
    return Reading(
        column=column.name,
        range=f"{plain(column.low, 6)}\u2013{plain(column.high, 6)}{unit}",
        original=measured(truth, column),
        reconstruction=measured(guess, column),
        control=measured(blind, column),
        hit=read_within(guess, truth, column),
        control_hit=read_within(blind, truth, column),
    )


def _at(values: Sequence[float | None], i: int) -> float | None:
    return values[i] if i < len(values) else None


def _item(items: Sequence[str], i: int) -> str:
    return items[i] if i < len(items) else ""


def _value(rows: Sequence[Sequence[float | None]], i: int, j: int) -> float | None:
    return rows[i][j] if i < len(rows) and j < len(rows[i]) else None
