"""A whole run, from its records: typed, immutable, in the order of the plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from leakgauge.core.errors import DataError
from leakgauge.records import Cell, End, Header, Record, Training
from leakgauge.report.variants import told_apart


@dataclass(frozen=True, kw_only=True)
class Run:
    """A whole run: its header, its cells and trainings in the order of the plan, and how it ended.

    Attacks of one name in one case have the options in their names that tell them apart.
    """

    header: Header
    cells: tuple[Cell, ...]
    trainings: tuple[Training, ...]
    planned: int
    trainings_planned: int
    seconds: float | None
    partial: bool


def parse(records: Sequence[Record]) -> Run:
    """Return the run that records are of, in any order.

    Raises:
        DataError: there is no header.
    """
    header = next((record for record in records if isinstance(record, Header)), None)
    if header is None:
        raise DataError(
            "records",
            expected="the header of a run: a line of type 'header'",
            found=f"{len(records)} other records" if records else "no records",
            remedy="run `leakgauge audit` again, or name the folder that it wrote",
        )
    end = next((record for record in records if isinstance(record, End)), None)
    cells = [record for record in records if isinstance(record, Cell)]
    trainings = [record for record in records if isinstance(record, Training)]
    told = end or header
    planned = max(told.planned, len(cells))
    return Run(
        header=header,
        cells=tuple(told_apart(sorted(cells, key=lambda cell: cell.index))),
        trainings=tuple(sorted(trainings, key=lambda training: training.index)),
        planned=planned,
        trainings_planned=max(told.trainings_planned, len(trainings)),
        seconds=end.seconds if end else None,
        partial=end is None or end.interrupted or len(cells) < planned,
    )
