"""Cells as the report reads them: typed, immutable, every field checked once.

A missing name is refused. A measurement that is missing or not a finite number becomes None, and the page then says
that it is missing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from leakgauge.core.errors import DataError
from leakgauge.report.claims import Claim, claims_of
from leakgauge.report.failure import Failure, failure_of
from leakgauge.report.lenient import integer, mapping, number, numbers, sequence, text, texts

MOST_EXAMPLES = 10**6
"""Largest batch size of a record: the page has an entry for each example."""
MOST_DECIMALS = 12
"""Most decimals of a table's column: float32 tells no more apart."""
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


def cell_of(position: int, record: Mapping[str, Any]) -> Cell:
    """Return a typed cell. Raise DataError if one of its names is missing."""
    for name in ("id", "case", "batch_size", "attack", "status"):
        if record.get(name) in (None, ""):
            raise DataError(
                f"record {position}",
                expected=f"a cell with its {name}",
                found="none",
                remedy="repeat the run: the records were changed or cut",
            )
    return Cell(
        id=text(record["id"]),
        case=text(record["case"]),
        batch_size=integer(record["batch_size"], 0, MOST_EXAMPLES) or 0,
        status=text(record["status"]),
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
        "strength": text(strength) if isinstance(strength, str) else number(strength),
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
    decimals = integer(record.get("decimals"), 0, MOST_DECIMALS)
    return Column(
        name=text(record.get("name")),
        unit=text(record.get("unit")),
        low=0.0 if low is None else low,
        high=1.0 if high is None else high,
        decimals=2 if decimals is None else decimals,
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
