"""The cases of an audit, and the cells that each case is run in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from leakgauge.audit.duplicates import select_differing
from leakgauge.audit.naming import titles
from leakgauge.audit.utility import Utility
from leakgauge.core import (
    Attack,
    DataError,
    Defense,
    LocalSteps,
    LocalTraining,
    Loss,
    Seeds,
    SingleGradient,
    SpecificationError,
    check_knowledge,
)
from leakgauge.core.configuration import configuration_of
from leakgauge.core.ranges import check_argument, check_fields
from leakgauge.core.references import guard_user_code
from leakgauge.core.summaries import Summarized
from leakgauge.data import Dataset
from leakgauge.federated import Batch, Client, FedSGD
from leakgauge.modalities import check_modality
from leakgauge.records import Network, Protocol
from leakgauge.threats import Server, ThreatModel

LISTS = ("attacks", "defenses", "batch_sizes")
"""Fields of a case that are lists."""


def is_unicode(text: str) -> bool:
    """Return whether UTF-8 can hold a text. It cannot hold the lone surrogates of some file names."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True, kw_only=True, repr=False)
class Case(Summarized):
    """One data set and one model, audited with every attack against every defense at every batch size.

    Use it to audit objects made in Python. Pass it to `leakgauge.audit`.

    Args:
        name: Name of the case, at least one character. Seeds are drawn from it.
        data: The data set that private batches come from.
        model: The network of the client. Its parameters are never changed.
        attacks: The attacks, at least one.
        defenses: The defenses, at least one. None stands for no defense.
        batch_sizes: Numbers of examples B in a private batch, each at least 1.
        loss: The client's loss, from outputs and targets to a scalar.
        training: The client's local training. The default, FedSGD, shares one gradient.
        threat: What the adversary observes and knows. The default is an honest but curious server.
        examples: Indices into the data set. The first B of them make each private batch. By default, the
            seed draws a new batch for each repeat.
        repeats: Number of private batches for each batch size, at least 1.
        model_name: Name of the model in records. The default is the name of its class.
        utility: How to measure the cost of the defenses in accuracy, traffic and time. By default,
            the cost is not measured.

    Raises:
        SpecificationError: A field has another type than its annotation, or the name is empty.

    Example:
        >>> import leakgauge as lg
        >>> data = lg.data.digits()
        >>> model = lg.models.mlp(data.domain, 10, width=32, depth=2)
        >>> attacks = [lg.attacks.LinearLayer()]
        >>> case = lg.Case(name="digits", data=data, model=model, attacks=attacks, batch_sizes=[1, 2])
        >>> case.cells
        2
    """

    name: str
    data: Dataset
    model: nn.Module
    attacks: Sequence[Attack]
    defenses: Sequence[Defense | None] = (None,)
    batch_sizes: Sequence[int] = (1,)
    loss: Loss = functional.cross_entropy
    training: LocalTraining = field(default_factory=FedSGD)
    threat: ThreatModel = field(default_factory=Server)
    examples: Sequence[int] | None = None
    repeats: int = 1
    model_name: str | None = None
    utility: Utility | None = None

    def __post_init__(self) -> None:
        """Raise SpecificationError if a field has another type than its annotation.

        `check_shape` checks the parts, which may be a user's own, and the counts.
        """
        check_fields(self, without=(*LISTS, "training", "threat", "repeats"))
        if not self.name or not is_unicode(self.name):
            raise SpecificationError(
                "Case.name",
                expected="a text of at least one character that UTF-8 can hold",
                found=repr(self.name),
                remedy="give the case a name, as seeds are drawn from it",
            )
        for name in LISTS:
            check_argument(f"Case.{name}", Sequence[Any], getattr(self, name))

    @property
    def labels_granted(self) -> bool:
        """Whether the threat model grants the labels. Granted labels cannot leak."""
        return bool({"labels", "label_counts"} & self.threat.grants)

    @cached_property
    def _titles(self) -> dict[int, str]:
        return titles((*self.attacks, *self.defenses))

    def title(self, part: Attack | Defense | None) -> str:
        """Return the name of an attack or defense in records and seeds. It is the same in every run."""
        return self._titles.get(id(part)) or configuration_of(part)

    @property
    def model_record(self) -> Network:
        """The record of the model."""
        trained = (p for p in self.model.parameters() if p.requires_grad)
        name = self.model_name or type(self.model).__name__
        return Network(name=name, parameters=sum(p.numel() for p in trained))

    def protocol_record(self, batch_size: int | None = None) -> Protocol:
        """Return the record of the local training.

        Args:
            batch_size: Number of the client's examples, or None if it is unknown.
        """
        training = self.training
        epochs = steps = 1 if isinstance(training, SingleGradient) else None
        if isinstance(training, LocalSteps):
            declared = getattr(training, "epochs", None)
            epochs = declared if isinstance(declared, int) else None
            steps = None if batch_size is None else training.count_steps(batch_size)
        return Protocol(
            name=type(training).__name__.lower(),
            repr=configuration_of(training),
            kind=training.kind,
            local_epochs=epochs,
            local_steps=steps,
        )

    def client(self, defense: Defense | None = None) -> Client:
        """Return the client that holds this case's model and trains under `defense`."""
        return Client(
            model=self.model,
            loss=self.loss,
            domain=self.data.domain,
            classes=self.data.classes,
            training=self.training,
            defense=defense,
        )

    def order(self, batch_size: int, repeat: int, seeds: Seeds) -> list[int]:
        """Return the indices of all examples: the private batch first, then the others."""
        count = len(self.data)
        if self.examples is not None:
            private = list(self.examples[:batch_size])
            taken = set(private)
            return [*private, *(i for i in range(count) if i not in taken)]
        generator = seeds.child("client").generator(f"batch/{repeat}")
        drawn: list[int] = torch.randperm(count, generator=generator).tolist()
        return drawn

    def indices(self, batch_size: int, repeat: int, seeds: Seeds) -> tuple[list[int], list[int]]:
        """Return the indices of the private batch and of the blind control's batch.

        The control's list is empty if too few examples remain. No input of the control equals an input of the
        private batch.
        """
        order = self.order(batch_size, repeat, seeds)
        private = order[:batch_size]
        decoys = select_differing(self.data.inputs, private, order[batch_size:], batch_size)
        return private, decoys if len(decoys) == batch_size else []

    def pool(self, batch_size: int, repeat: int, seeds: Seeds, count: int) -> list[int]:
        """Return indices of up to `count` other examples. None of them equals an example of the private batch."""
        order = self.order(batch_size, repeat, seeds)
        return select_differing(self.data.inputs, order[:batch_size], order[batch_size:], count)

    @property
    def last(self) -> int:
        """Index of the example with the largest target. If targets are classes, its class is the last one."""
        targets = self.data.targets
        return int(targets.flatten(1).amax(1).argmax() if targets.ndim > 1 else targets.argmax())

    def batch(self, indices: Sequence[int]) -> Batch:
        """Return the examples with these indices, in this order."""
        chosen = torch.tensor(indices, dtype=torch.long)
        return Batch(self.data.inputs[chosen], self.data.targets[chosen])

    @property
    def cells(self) -> int:
        """Number of cells of the case: batch sizes x repeats x defenses x attacks."""
        return len(self.batch_sizes) * self.repeats * len(self.defenses) * len(self.attacks)

    @property
    def trainings(self) -> int:
        """Largest number of trainings of the case. A defense that is named twice is trained once."""
        return 0 if self.utility is None else self.utility.repeats * (1 + len(self.defenses))

    def check(self) -> None:
        """Raise a UserError if the case has a mistake that can be found before an attack runs."""
        kinds: tuple[tuple[str, Any], ...] = (("attacks", Attack), ("defenses", Defense | None))
        for name, kind in kinds:
            for part in getattr(self, name):
                check_argument(f"case {self.name!r}, {name}", kind, part)
        for attack in self.attacks:
            check_knowledge(attack, self.threat.grants)
        available = len(self.data) if self.examples is None else len(self.examples)
        largest = max(self.batch_sizes)
        if largest > available:
            raise DataError(
                f"case {self.name!r}",
                expected=f"a batch of at most {available} examples, the number that "
                + (f"{self.data.name!r} has" if self.examples is None else "`examples` names"),
                found=f"batch_size {largest}",
                remedy="lower training.batch_size or give more examples",
            )
        absent = [i for i in self.examples or () if not 0 <= i < len(self.data)]
        if absent:
            raise DataError(
                f"case {self.name!r}",
                expected=f"examples from 0 to {len(self.data) - 1}",
                found=str(absent[0]) + (f" and {len(absent) - 1:,} more" if absent[1:] else ""),
                remedy="name examples that the data set has",
            )
        if self.utility is not None:
            self.utility.check(self.name, self.data)
        with guard_user_code(
            f"case {self.name!r}, modality",
            "a modality that names its metrics, headline and rule",
            remedy="correct the modality of the data's domain",
            error=DataError,
        ):
            check_modality(self.data.domain, self.data.inputs)
        client, last = self.client(), self.last
        for size in sorted(set(self.batch_sizes)):
            indices = self.indices(size, 0, Seeds())[0]
            # A later draw may hold the largest label, so this check includes it.
            client.check(self.batch([last, *indices[1:]]))


@dataclass(frozen=True, repr=False)
class Cell(Summarized):
    """One attack on one update. An audit runs each cell by itself and writes one record for it.

    Args:
        index: Place of the cell in the plan, from 0.
        case: The case that the cell belongs to.
        batch_size: Number of examples B in the private batch.
        repeat: Number of the private batch, from 0.
        defense: The client's defense, or None if it has none.
        attack: The attack.

    Example:
        >>> import leakgauge as lg
        >>> from leakgauge.audit import Cell
        >>> data = lg.data.digits()
        >>> model = lg.models.mlp(data.domain, 10, width=32, depth=2)
        >>> attack = lg.attacks.LinearLayer()
        >>> case = lg.Case(name="digits", data=data, model=model, attacks=[attack])
        >>> Cell(0, case, 1, 0, None, attack).observation_path
        'digits/b1/r0/None'
    """

    index: int
    case: Case
    batch_size: int
    repeat: int
    defense: Defense | None
    attack: Attack

    @property
    def observation_path(self) -> str:
        """Name from which the seeds of the update and its attacks are drawn. All attacks on one update share it."""
        return f"{self.case.name}/b{self.batch_size}/r{self.repeat}/{self.case.title(self.defense)}"


def cells(cases: Sequence[Case]) -> Iterator[Cell]:
    """Yield all cells of the cases, in the order of the plan."""
    index = 0
    for case in cases:
        for batch_size in case.batch_sizes:
            for repeat in range(case.repeats):
                for defense in case.defenses:
                    for attack in case.attacks:
                        yield Cell(index, case, int(batch_size), repeat, defense, attack)
                        index += 1
