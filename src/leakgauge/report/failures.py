"""The page's list of failed audits, blind controls and trainings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from leakgauge.records import Cell, Failure, Training
from leakgauge.report.run import Run
from leakgauge.report.wording import plural, setting


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the list.

    Args:
        id: The record's name.
        what: The audit or training in words.
        failure: The step that failed, the reason, and the path of the traceback.
        kept: A sentence about results that exist in spite of the failure. It is empty if there are none.
    """

    id: str
    what: str
    failure: Failure
    kept: str


@dataclass(frozen=True, kw_only=True)
class Failures:
    """All failures of a run. It is false if there are none.

    Args:
        shown: One entry for each failure.
        summary: One sentence with the number of failures.
    """

    first: ClassVar[int] = 8
    """Number of entries that the page shows. A reader unfolds the others."""
    shown: tuple[Entry, ...]
    summary: str

    def __bool__(self) -> bool:
        return bool(self.shown)


def failures(run: Run) -> Failures:
    """Return the failures of a run, in the order of the plan."""
    cells, trainings = tuple(_cells(run)), tuple(_trainings(run))
    ended = sum(not entry.kept for entry in cells)
    controls = len(cells) - ended
    parts = [
        f"{ended} of {plural(len(run.cells), 'audit')} failed" if ended else "",
        f"{plural(controls, 'blind control')} failed" if controls else "",
        f"{len(trainings)} of {plural(len(run.trainings), 'training')} failed" if trainings else "",
    ]
    return Failures(
        shown=(*cells, *trainings), summary=", ".join(part for part in parts if part) + "."
    )


def _cells(run: Run) -> Iterator[Entry]:
    """Yield an entry for each failed audit and each failed blind control."""
    for cell in run.cells:
        if cell.failure is not None:
            kept = (
                ""
                if cell.failed
                else "The scores are kept. They are not judged, since the control is missing."
            )
            yield Entry(id=cell.id, what=_audit(cell), failure=cell.failure, kept=kept)


def _audit(cell: Cell) -> str:
    """Return an audit in words."""
    against = "" if cell.undefended else f" against {setting(cell)}"
    return f"{cell.attack.name}{against}, batch of {cell.batch_size}"


def _trainings(run: Run) -> Iterator[Entry]:
    """Yield an entry for each failed training."""
    for training in run.trainings:
        if training.failure is not None:
            what = f"training with {_defense(training)}"
            yield Entry(id=training.id, what=what, failure=training.failure, kept="")


def _defense(training: Training) -> str:
    """Return the defense of a training in words."""
    defense = training.defense
    return "no defense" if defense.name == "none" else defense.repr or defense.name
