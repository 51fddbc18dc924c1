"""The gallery of undefended audits: originals beside reconstructions and the blind control."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from leakgauge.records import Cell, Column, Rows, Sides
from leakgauge.report.formats import FORMATS
from leakgauge.report.measures import (
    IIP,
    IN_BATCH,
    LPIPS,
    MS_SSIM,
    PLACED,
    ROUGE_1,
    ROUGE_2,
    ROUGE_L,
    SSIM,
)
from leakgauge.report.pictures import Album
from leakgauge.report.sentences import Line, lines
from leakgauge.report.wording import count, decibels, knowledge, measured, plain, remedy

BESIDE = (SSIM, MS_SSIM, LPIPS, PLACED, ROUGE_1, ROUGE_2, ROUGE_L)
"""Measures that stand beside an example, in this order."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Arrangement of the examples of one layout.

    Args:
        first: Number of examples that are shown. A reader unfolds the others.
        single: Class in the style sheet for one example.
        few: Class in the style sheet for two or three examples.
        many: Class in the style sheet for more examples.
        beside: For batches of one: whether the trajectory of the attack stands beside the example.
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
    "sentences": Layout(first=8, single="texts", few="texts", many="texts", beside=False),
}
"""Layouts by their names in a record. `cases.html.j2` has a macro for each."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One column of one private row. Texts of values include the column's unit.

    Args:
        column: Name of the column.
        range: Public range of its values.
        original: The true value.
        reconstruction: The attack's value.
        control: The blind control's value.
        hit: Whether the attack's value lies within the column's tolerance from the true value.
        control_hit: Whether the control's value lies within this tolerance.
    """

    column: str
    range: str
    original: str
    reconstruction: str
    control: str
    hit: bool
    control_hit: bool


@dataclass(frozen=True, kw_only=True)
class Example:
    """One private example with its reconstruction and its scores.

    Args:
        name: Name of the example.
        label: Name of its label, or an empty string.
        leaked: The verdict, or None if the example was not judged.
        pictures: Data URI for each side: the original, the reconstruction and the control. None if it is missing.
        scores: Scores of the reconstruction, in words.
        control_scores: Scores of the control, in words.
        label_right: Whether the attack recovered the label, or None if it recovers none.
        identified: Whether the reconstruction identifies its original, in words. It is empty if this is unknown.
        readings: The columns of a row of a table.
        lines: Sentence for each side: the original, the reconstruction and the control.
    """

    name: str
    label: str
    leaked: bool | None
    pictures: dict[str, str | None]
    scores: list[str]
    control_scores: list[str]
    label_right: bool | None
    identified: str
    readings: list[Reading]
    lines: dict[str, Line]


@dataclass(frozen=True, kw_only=True)
class Glance:
    """One thumbnail of an attack's trajectory with its captions."""

    picture: str | None
    evaluations: str
    objective: str
    psnr: str


@dataclass(frozen=True, kw_only=True)
class Block:
    """One audit in the gallery.

    Args:
        cell: Its record.
        layout: Arrangement of its examples.
        examples: Examples that are shown.
        rest: Examples that a reader unfolds.
        glances: Thumbnails of the trajectory.
        known: Knowledge of the adversary, in words.
        withheld: Knowledge that the adversary lacks, in words.
        remedy: The attack's message, or advice for its status.
        leaked: Number of examples that leaked.
        judged: Number of examples that were judged.
    """

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
    """One case: its undefended audits, and those that were inapplicable or failed (`skipped`)."""

    name: str
    first: Cell
    blocks: list[Block]
    skipped: list[Cell]


def cases(cells: Sequence[Cell], album: Album) -> list[Case]:
    """Return the cases in the order of the records, with their audits sorted by batch size."""
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
    """Return one audit for the page."""
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
    # Rounding must not exclude a difference of exactly the tolerance.
    return abs(value - truth) <= column.tolerance * (1 + 1e-9)


def _example(cell: Cell, i: int, verdicts: Sequence[bool | None], album: Album) -> Example:
    """Return example `i` of the batch for the page."""
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
        label_right=None if right is None else right >= 0.5,
        identified=_identified(cell, i),
        readings=[_reading(cell, i, j, column) for j, column in enumerate(cell.data.columns or ())],
        lines=lines(cell, i),
    )


def _scores(cell: Cell, i: int, *, control: bool) -> list[str]:
    """Return the scores of example `i` in words, the headline's first."""
    values = cell.blind_values if control else cell.values
    headline = cell.data.headline
    first = _at(values(headline.metric), i)
    shown = [FORMATS[headline.format].read(first, headline)]
    scores = {measure: _at(values(measure.names[0]), i) for measure in BESIDE}
    if headline.metric != "psnr" and "psnr" in cell.scores:
        shown.append(decibels(_at(values("psnr"), i)))
    if cell.batch_size > 1:
        scores[IN_BATCH] = _at(values(IN_BATCH.names[0]), i)
    return shown + [
        f"{m.heading} {m.text(value)}" for m, value in scores.items() if value is not None
    ]


def _identified(cell: Cell, i: int) -> str:
    """Return whether the reconstruction is nearest to its own original, and among how many images."""
    name = IIP.name(cell)
    value = _at(cell.values(name), i) if name is not None else None
    if value is None or cell.candidates is None:
        return ""
    return f"{'identified' if value >= 0.5 else 'not identified'} among {cell.candidates}"


def _reading(cell: Cell, i: int, j: int, column: Column) -> Reading:
    """Return column `j` of row `i` for the page."""
    truth, found, blind = (_value(getattr(cell.rows, side, ()), i, j) for side in Rows.model_fields)
    unit = f" {column.unit}" if column.unit else ""
    return Reading(
        column=column.name,
        range=f"{plain(column.low, 6)}\u2013{plain(column.high, 6)}{unit}",
        original=measured(truth, column),
        reconstruction=measured(found, column),
        control=measured(blind, column),
        hit=read_within(found, truth, column),
        control_hit=read_within(blind, truth, column),
    )


def _at(values: Sequence[float | None], i: int) -> float | None:
    """Return value `i`, or None if there are fewer values."""
    return values[i] if i < len(values) else None


def _item(items: Sequence[str], i: int) -> str:
    """Return item `i`, or an empty string if there are fewer items."""
    return items[i] if i < len(items) else ""


def _value(rows: Sequence[Sequence[float | None]], i: int, j: int) -> float | None:
    """Return column `j` of row `i`, or None if it is missing."""
    return rows[i][j] if i < len(rows) and j < len(rows[i]) else None
