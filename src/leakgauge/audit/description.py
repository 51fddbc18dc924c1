"""Descriptions of cells for their records: data, model, protocol, defense, attack and threat model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from leakgauge import records
from leakgauge.audit.case import Cell
from leakgauge.audit.failures import Failed, reason_of, step, try_step
from leakgauge.audit.naming import attack_name, defense_record, name_of
from leakgauge.audit.options import snake
from leakgauge.audit.verdict import unjudged
from leakgauge.core import Column, SpecificationError, Status, UserError
from leakgauge.data import Dataset
from leakgauge.federated import Batch
from leakgauge.metrics import COLUMN_TOLERANCE
from leakgauge.modalities import modality_of
from leakgauge.modalities.unknown import UnknownModality
from leakgauge.records import Described, Threat


class Drawn(Protocol):
    """The private batch of a cell, and the places of its examples in the data set."""

    @property
    def indices(self) -> list[int]: ...

    @property
    def batch(self) -> Batch: ...


def describe(cell: Cell, root: int, drawn: Drawn | None = None) -> Described:
    """Return the description of a cell. `drawn` is None if the batch could not be drawn."""
    case = cell.case
    attack = attack_name(cell.attack)
    return Described(
        index=cell.index,
        id=f"{cell.index:03d}/{case.name}/b{cell.batch_size}/r{cell.repeat}/{name_of(cell.defense)}/{attack}",
        case=case.name,
        data=data_record(case.data, drawn),
        model=case.model_record,
        protocol=case.protocol_record(cell.batch_size),
        batch_size=cell.batch_size,
        repeat=cell.repeat,
        defense=defense_record(cell.defense, case.title(cell.defense)),
        attack=records.Attack(name=attack, repr=case.title(cell.attack)),
        threat=Threat(
            name=snake(type(case.threat).__name__),
            grants=tuple(sorted(case.threat.grants)),
            always=("model", "protocol", "update"),
        ),
        seed=root,
    )


def describe_drawn(cell: Cell, root: int, drawn: Drawn) -> Described:
    """Return the description of a cell with its private batch. Raise an exception as Failed in the step "data"."""
    with step("data"):
        return describe(cell, root, drawn)


def data_record(data: Dataset, drawn: Drawn | None) -> records.Data:
    """Return the record of the data set and the private examples. It has no examples if `drawn` is None."""
    modality = modality_of(data.domain)
    columns = modality.columns(data.domain)
    return records.Data(
        name=data.name,
        kind=data.domain.kind,
        licence=data.licence,
        examples=tuple(drawn.indices) if drawn else (),
        labels=classes_of(drawn.batch.targets) if drawn else None,
        label_names=names_of(data, drawn.batch.targets) if drawn else (),
        columns=tuple(map(column_record, columns)) if columns else None,
        headline=modality.headline,
        layout=modality.layout,
    )


def classes_of(targets: Tensor) -> tuple[int, ...] | None:
    """Return class indices, or None if the targets, (B,) or (B, K), are not classes."""
    if targets.ndim != 1 or targets.is_floating_point():
        return None
    return tuple(map(int, targets.tolist()))


def names_of(data: Dataset, targets: Tensor) -> tuple[str, ...]:
    """Return the class name of each target of a batch, or the target itself as text if classes have no names."""
    labels, names = targets.tolist(), data.class_names
    return tuple(names[label] if names else str(label) for label in labels)


def column_record(column: Column) -> records.Column:
    """Return the record of a column of a table."""
    low, high = float(column.low), float(column.high)
    return records.Column(
        name=column.name,
        unit=column.unit,
        low=low,
        high=high,
        decimals=0 if column.integer else column.decimals,
        tolerance=COLUMN_TOLERANCE * (high - low),
    )


UNDESCRIBED = "unknown: it could not be described"
"""Text in a record for a part that could not be described."""


def check_described(cell: Cell, root: int) -> None:
    """Raise a UserError if the parts of a cell cannot be described. Its record could not be written later."""

    def describing() -> None:
        describe(cell, root)
        unjudged(modality_of(cell.case.data.domain).rule, Status.FAILED)

    check_record(describing, f"case {cell.case.name!r}, {type(cell.attack).__name__}")


def check_record(describing: Callable[[], object], where: str) -> None:
    """Raise a UserError if a cell or training cannot be described for its record.

    Args:
        describing: Function that makes the description.
        where: Name of the cell or training in the message.
    """
    result = try_step("data", describing)
    if not isinstance(result, Failed):
        return
    if isinstance(result.cause, UserError):
        raise result.cause
    raise SpecificationError(
        where,
        expected="data, model, training, defense, attack and threat model that a record can describe",
        found=reason_of(result.cause),
        remedy="correct the part that the error names",
    )


def describe_minimally(cell: Cell, root: int) -> Described:
    """Return a description of a cell without calling code of its parts, since a user's own parts may fail."""
    return Described(
        index=cell.index,
        id=f"{cell.index:03d}/{cell.case.name}/b{cell.batch_size}/r{cell.repeat}",
        case=cell.case.name,
        data=records.Data(
            name=UNDESCRIBED,
            kind=UNDESCRIBED,
            licence="",
            examples=(),
            labels=None,
            label_names=(),
            columns=None,
            headline=UnknownModality.headline,
            layout=UnknownModality.layout,
        ),
        model=records.Network(name=UNDESCRIBED, parameters=0),
        protocol=bare_protocol(),
        batch_size=cell.batch_size,
        repeat=cell.repeat,
        defense=bare_defense(),
        attack=records.Attack(name=UNDESCRIBED, repr=UNDESCRIBED),
        threat=Threat(name=UNDESCRIBED, grants=(), always=()),
        seed=root,
    )


def bare_protocol() -> records.Protocol:
    """Return the record of an unknown local training."""
    return records.Protocol(
        name=UNDESCRIBED, repr=UNDESCRIBED, kind="gradient", local_epochs=None, local_steps=None
    )


def bare_defense() -> records.Defense:
    """Return the record of an unknown defense. It is not "none", so that no verdict counts it as undefended."""
    return records.Defense(
        name=UNDESCRIBED,
        repr=UNDESCRIBED,
        strength_name=None,
        strength=None,
        strength_text=None,
        claims=(),
    )
