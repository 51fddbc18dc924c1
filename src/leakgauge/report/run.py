"""A run built from its records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from leakgauge.core.errors import DataError
from leakgauge.records import Cell, End, Header, Record, Training
from leakgauge.report.variants import distinguish


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run: its header, its cells and trainings in the order of the plan, and how it ended.

    If several attacks of one case share a name, the options that differ are added to their names.

    Args:
        header: The run's header.
        cells: Records of audits.
        trainings: Records of trainings.
        planned: Number of planned audits.
        trainings_planned: Number of planned trainings.
        seconds: Duration of the run, or None if it has not ended.
        partial: Whether audits are missing, since the run stopped early or has not ended.
    """

    header: Header
    cells: tuple[Cell, ...]
    trainings: tuple[Training, ...]
    planned: int
    trainings_planned: int
    seconds: float | None
    partial: bool


def parse(records: Sequence[Record]) -> Run:
    """Return the run that the records describe. The records may be in any order.

    Raises:
        DataError: The records have no header.
    """
    header = next((record for record in records if isinstance(record, Header)), None)
    if header is None:
        raise DataError(
            "records",
            expected="the header of a run: a line of type 'header'",
            found=f"{len(records)} other records" if records else "no records",
            remedy="run `leakgauge audit` again, or give the folder that it wrote",
        )
    end = next((record for record in records if isinstance(record, End)), None)
    cells = [record for record in records if isinstance(record, Cell)]
    trainings = [record for record in records if isinstance(record, Training)]
    last = end or header
    planned = max(last.planned, len(cells))
    return Run(
        header=header,
        cells=tuple(distinguish(sorted(cells, key=lambda cell: cell.index))),
        trainings=tuple(sorted(trainings, key=lambda training: training.index)),
        planned=planned,
        trainings_planned=max(last.trainings_planned, len(trainings)),
        seconds=end.seconds if end else None,
        partial=end is None or end.interrupted or len(cells) < planned,
    )
