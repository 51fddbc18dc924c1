"""Records of utility as the report reads them: one training under one defense, typed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from leakgauge.core.errors import DataError
from leakgauge.report.failure import Failure, failure_of
from leakgauge.report.lenient import integer, mapping, number, numbers, sequence, text


@dataclass(frozen=True, kw_only=True)
class Training:
    """One federated training: accuracy in [0, 1] before and after each round, what rounds sent and took."""

    id: str
    case: str
    defense: str
    defense_repr: str
    strength_name: str | None
    strength: float | str | None
    repeat: int
    accuracy: tuple[float, ...]
    bytes_a_round: float | None
    seconds_a_round: float | None
    tested: int
    trained: int
    clients: int | None
    rounds: int | None
    diverged: bool
    epsilon: float | None
    epsilon_note: str
    delta: float | None
    failure: Failure | None

    @property
    def final(self) -> float | None:
        """Test accuracy after the last round that was kept."""
        return self.accuracy[-1] if self.accuracy else None


def training(position: int, record: Mapping[str, Any]) -> Training:
    """A typed record of utility. Raises DataError where it has no case."""
    if record.get("case") in (None, ""):
        raise DataError(
            f"record {position}",
            expected="a training with its case",
            found="none",
            remedy="repeat the run: the records were changed or cut",
        )
    defense, federation = mapping(record.get("defense")), mapping(record.get("federation"))
    strength, told = defense.get("strength"), mapping(record.get("epsilon"))
    data = mapping(record.get("data"))
    return Training(
        id=text(record.get("id")),
        case=text(record["case"]),
        defense=text(defense.get("name")) or "none",
        defense_repr=text(defense.get("repr")),
        strength_name=text(defense.get("strength_name")) or None,
        strength=text(strength) if isinstance(strength, str) else number(strength),
        repeat=integer(record.get("repeat")) or 0,
        accuracy=tuple(v for v in numbers(record.get("accuracy")) if v is not None and 0 <= v <= 1),
        bytes_a_round=_mean(record.get("sent_bytes")),
        seconds_a_round=_mean(record.get("seconds")),
        tested=_count(data.get("test")),
        trained=_count(data.get("train")),
        clients=integer(federation.get("clients")),
        rounds=integer(federation.get("rounds")),
        diverged=bool(record.get("diverged")),
        epsilon=number(told.get("value")),
        epsilon_note=text(told.get("note")),
        delta=number(told.get("delta")),
        failure=failure_of(record),
    )


def _mean(values: object) -> float | None:
    known = [value for value in numbers(values) if value is not None]
    return fmean(known) if known else None


def _count(part: object) -> int:
    """How many examples a data set has, of its name and that number."""
    return integer(next(iter(sequence(part)[1:]), None)) or 0
