"""The page's list of what failed: cells, blind controls and trainings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from leakgauge.records import Cell, Failure, Training
from leakgauge.report.run import Run
from leakgauge.report.wording import plural, setting


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the list. `kept`: what there is in spite of the failure."""

    id: str
    what: str
    failure: Failure
    kept: str


@dataclass(frozen=True, kw_only=True)
class Failures:
    """All failures of a run, and how many there are in one sentence. It is false if there are none.

    `first`: how many the page shows before it folds the others away.
    """

    first: ClassVar[int] = 8
    shown: tuple[Entry, ...]
    told: str

    def __bool__(self) -> bool:
        return bool(self.shown)


def failures(run: Run) -> Failures:
    """Return what failed, in the order of the plan."""
    cells, trainings = tuple(_cells(run)), tuple(_trainings(run))
    ended = sum(not entry.kept for entry in cells)
    controls = len(cells) - ended
    parts = [
        f"{ended} of {plural(len(run.cells), 'audit')} failed" if ended else "",
        f"{plural(controls, 'blind control')} failed" if controls else "",
        f"{len(trainings)} of {plural(len(run.trainings), 'training')} failed" if trainings else "",
    ]
    return Failures(
        shown=(*cells, *trainings), told=", ".join(part for part in parts if part) + "."
    )


def _cells(run: Run) -> Iterator[Entry]:
    for cell in run.cells:
        if cell.failure is not None:
            kept = (
                "" if cell.failed else "The scores are kept. Without a control, nothing is judged."
            )
            yield Entry(id=cell.id, what=_audit(cell), failure=cell.failure, kept=kept)


def _audit(cell: Cell) -> str:
    against = "" if cell.undefended else f" against {setting(cell)}"
    return f"{cell.attack.name}{against}, batch of {cell.batch_size}"


def _trainings(run: Run) -> Iterator[Entry]:
    for training in run.trainings:
        if training.failure is not None:
            what = f"training with {_defense(training)}"
            yield Entry(id=training.id, what=what, failure=training.failure, kept="")


def _defense(training: Training) -> str:
    defense = training.defense
    return "no defense" if defense.name == "none" else defense.repr or defense.name
