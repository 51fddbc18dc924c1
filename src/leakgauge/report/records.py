"""Records as the report reads them: JSON lines on disk, then typed, immutable cells.

Reading is strict about lines, types and names, and lenient about measurements: a score that is
missing or not a number becomes None, and the page then says that it is missing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from errno import ENODEV
from pathlib import Path
from typing import Any

from leakgauge.core.errors import DataError
from leakgauge.report.claims import Claim, claims_of
from leakgauge.report.failure import Failure, failure_of
from leakgauge.report.lenient import integer, mapping, number, numbers, sequence, text, texts
from leakgauge.report.trainings import Training, training

SCHEMA = 1
PSNR_CEILING = 200.0
"""dB at which records cap a PSNR, so that it stays a number: an exact copy."""
Scores = Mapping[str, tuple[float | None, ...]]


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a private table: its name, unit and public range."""

    name: str
    unit: str
    low: float
    high: float
    decimals: int


@dataclass(frozen=True, kw_only=True)
class Moment:
    """One glance at an attack under way: what it had spent, its objective, the reader's PSNR."""

    evaluations: int | None
    objective: float | None
    psnr: float | None
    image: str | None


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One audit: one attack on one update. Scores and pictures are one value per example."""

    id: str
    case: str
    kind: str
    data_name: str
    licence: str
    examples: tuple[str, ...]
    labels: tuple[str, ...]
    columns: tuple[Column, ...]
    model: str
    model_repr: str
    parameters: int | None
    training: str
    batch_size: int
    defense: str
    defense_repr: str
    claims: tuple[Claim, ...]
    strength_name: str | None
    strength: float | str | None
    attack: str
    attack_repr: str
    threat: str
    always: tuple[str, ...]
    grants: tuple[str, ...]
    seed: str
    status: str
    message: str
    notes: tuple[str, ...]
    scores: Scores
    perceptual: str
    candidates: int | None
    control_scores: Scores
    control_kind: str
    control_status: str
    control_message: str
    failure: Failure | None
    found: tuple[bool, ...]
    course: tuple[Moment, ...]
    images: Mapping[str, tuple[str, ...]]
    rows: Mapping[str, tuple[tuple[float | None, ...], ...]]
    evaluations: int | None
    seconds: float | None

    @property
    def undefended(self) -> bool:
        """Whether the update left the client as training made it."""
        return self.defense == "none"

    @property
    def inapplicable(self) -> bool:
        """Whether the attack could not be run here at all."""
        return self.status == "inapplicable"

    @property
    def failed(self) -> bool:
        """Whether an exception ended the audit before there was a reconstruction to score."""
        return self.status == "failed"

    @property
    def silent(self) -> bool:
        """Whether every entry of the update was zero, so that there was nothing to attack."""
        return self.status == "no signal"

    @property
    def ran(self) -> bool:
        """Whether there is a reconstruction to look at."""
        return not (self.inapplicable or self.failed or self.silent)

    def score(self, name: str, example: int) -> float | None:
        """The attack's score for one example; None where it has none."""
        return _at(self.scores, name, example)

    def control(self, name: str, example: int) -> float | None:
        """The blind control's score for one example; None where it has none."""
        return _at(self.control_scores, name, example)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A whole run: its header, its cells and trainings in the order of the plan, and how it ended."""

    header: Mapping[str, Any]
    cells: tuple[Cell, ...]
    trainings: tuple[Training, ...]
    planned: int
    trainings_planned: int
    seconds: float | None
    partial: bool


def read(path: Path) -> list[Mapping[str, Any]]:
    """Return the records of a JSON-lines file.

    A last line that a crash cut in two is left out: nothing that was finished stands in it.

    Raises:
        DataError: there is no such file, or another line is bad.
    """
    try:
        if path.exists() and not path.is_file():
            raise OSError(ENODEV, "No regular file")  # opening a pipe would wait for its writer
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "bytes that are not UTF-8"
        raise DataError(
            path.name,
            expected="a readable records file in the run's folder",
            found=reason.lower(),
            remedy="run `leakgauge audit` first, or name the folder that it wrote",
        ) from None
    whole, _, rest = content.rpartition("\n")
    lines = [(n, line) for n, line in enumerate(whole.split("\n"), start=1) if line.strip()]
    records = [_decode(path.name, number, line) for number, line in lines]
    if rest.strip():
        with suppress(DataError):
            records.append(_decode(path.name, 0, rest))
    return records


def parse(records: Sequence[Mapping[str, Any]]) -> Run:
    """Typed records. Raises DataError for another schema or a cell without its names."""
    header = next((r for r in records if r.get("type") == "run"), {})
    if header.get("schema", SCHEMA) != SCHEMA:
        raise DataError(
            "records",
            expected=f"schema {SCHEMA}",
            found=f"schema {header.get('schema')!r}",
            remedy="draw the report with the version of LeakGauge that made the records",
        )
    end = next((r for r in records if r.get("type") == "end"), None)
    numbered = sorted(enumerate(records, 1), key=_place)
    cells = tuple(_cell(n, r) for n, r in numbered if r.get("type") == "cell")
    utility = [(n, r) for n, r in numbered if r.get("type") == "utility"]
    due = mapping((end or header).get("trainings"))
    planned = max(integer((end or header).get("planned")) or 0, len(cells))
    stopped = end is None or bool(end.get("interrupted"))
    return Run(
        header=header,
        cells=cells,
        trainings=tuple(training(n, r) for n, r in utility),
        planned=planned,
        trainings_planned=max(integer(due.get("planned")) or 0, len(utility)),
        seconds=number(end.get("seconds")) if end else None,
        partial=stopped or len(cells) < planned,
    )


def _place(numbered: tuple[int, Mapping[str, Any]]) -> tuple[int, int]:
    """Return the place of a record in the plan: lines are in the order in which they were finished."""
    position, record = numbered
    return integer(record.get("index")) or 0, position


def _decode(name: str, line_number: int, line: str) -> Mapping[str, Any]:
    try:
        record = json.loads(line)
    # RecursionError: lists within lists, thousands deep.
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict) or "type" not in record:
        raise DataError(
            f"{name}, line {line_number}",
            expected="one JSON object with a type",
            found=f"{line[:40]!r}",
            remedy="delete the line, or repeat the run (a run cut while writing ends mid-line)",
        )
    return record


def _cell(position: int, record: Mapping[str, Any]) -> Cell:
    for name in ("id", "case", "batch_size", "attack", "status"):
        if record.get(name) in (None, ""):
            raise DataError(
                f"record {position}",
                expected=f"a cell with its {name}",
                found="none",
                remedy="repeat the run: the records were changed or cut",
            )
    return Cell(
        id=str(record["id"]),
        case=str(record["case"]),
        batch_size=integer(record["batch_size"]) or 0,
        status=str(record["status"]),
        message=text(record.get("message")),
        notes=texts(record.get("notes")),
        seed=text(record.get("seed")),
        training=text(mapping(record.get("training")).get("repr")),
        **_subject(mapping(record.get("data")), mapping(record.get("model"))),
        **_contest(*(mapping(record.get(key)) for key in ("defense", "attack", "threat"))),
        **_outcome(record, mapping(record.get("control")), mapping(record.get("cost"))),
    )


def _subject(data: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "kind": text(data.get("kind")),
        "data_name": text(data.get("name")),
        "licence": text(data.get("licence")),
        "examples": texts(data.get("examples")),
        "labels": texts(data.get("label_names")) or texts(data.get("labels")),
        "columns": tuple(_column(mapping(c)) for c in sequence(data.get("columns"))),
        "model": text(model.get("name")),
        "model_repr": text(model.get("repr")),
        "parameters": integer(model.get("parameters")),
    }


def _contest(
    defense: Mapping[str, Any], attack: Mapping[str, Any], threat: Mapping[str, Any]
) -> dict[str, Any]:
    strength = defense.get("strength")
    return {
        "defense": text(defense.get("name")) or "none",
        "defense_repr": text(defense.get("repr")),
        "claims": claims_of(defense),
        "strength_name": text(defense.get("strength_name")) or None,
        "strength": number(strength) if not isinstance(strength, str) else strength,
        "attack": text(attack.get("name")),
        "attack_repr": text(attack.get("repr")),
        "threat": text(threat.get("name")),
        "always": texts(threat.get("always")),
        "grants": texts(threat.get("grants")),
    }


def _outcome(
    record: Mapping[str, Any], control: Mapping[str, Any], cost: Mapping[str, Any]
) -> dict[str, Any]:
    images, rows = mapping(record.get("images")), mapping(record.get("rows"))
    return {
        "scores": _scores(record.get("scores")),
        "perceptual": text(record.get("perceptual")),
        "candidates": integer(record.get("candidates")),
        "control_scores": _scores(control.get("scores")),
        "control_kind": text(control.get("kind")),
        "control_status": text(control.get("status")),
        "control_message": text(control.get("message")),
        "failure": failure_of(record),
        "found": tuple(bool(value) for value in sequence(record.get("found"))),
        "course": tuple(_moment(mapping(m)) for m in sequence(record.get("course"))),
        "images": {key: texts(value) for key, value in images.items()},
        "rows": {
            key: tuple(numbers(row) for row in sequence(value)) for key, value in rows.items()
        },
        "evaluations": integer(cost.get("evaluations")),
        "seconds": number(cost.get("seconds")),
    }


def _column(record: Mapping[str, Any]) -> Column:
    low, high = number(record.get("low")), number(record.get("high"))
    decimals = integer(record.get("decimals"))
    return Column(
        name=text(record.get("name")),
        unit=text(record.get("unit")),
        low=0.0 if low is None else low,
        high=1.0 if high is None else high,
        decimals=2 if decimals is None else max(decimals, 0),
    )


def _moment(record: Mapping[str, Any]) -> Moment:
    return Moment(
        evaluations=integer(record.get("evaluations")),
        objective=number(record.get("objective")),
        psnr=number(record.get("psnr")),
        image=text(record.get("image")) or None,
    )


def _at(scores: Scores, name: str, example: int) -> float | None:
    values = scores.get(name, ())
    return values[example] if example < len(values) else None


def _scores(value: object) -> Scores:
    scores = {key: numbers(values) for key, values in mapping(value).items()}
    if "psnr" in scores:
        scores["psnr"] = tuple(
            math.inf if v is not None and v >= PSNR_CEILING else v for v in scores["psnr"]
        )
    return scores
