"""Cases and cells: an audit as objects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from leakgauge.audit.duplicates import differing
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
    """Return whether UTF-8 can hold a text: it holds no lone surrogate, as names of files may."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True, kw_only=True, repr=False)
class Case(Summarized):
    """Every attack against every defense at every batch size, on one data set and one model.

    `examples` fixes which examples make the batch (the first B of them); otherwise the seed draws
    them, anew for each of `repeats` batches. `utility`: how to measure what the defenses cost, if at all.
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
        """Raise SpecificationError if a field is of another kind than its annotation.

        `check_shape` looks at the parts, which may be a user's own, and at the counts.
        """
        check_fields(self, without=(*LISTS, "training", "threat", "repeats"))
        if not self.name or not is_unicode(self.name):
            raise SpecificationError(
                "Case.name",
                expected="a text of at least one character that UTF-8 can hold",
                found=repr(self.name),
                remedy="correct it: seeds are drawn from it",
            )
        for name in LISTS:
            check_argument(f"Case.{name}", Sequence[Any], getattr(self, name))

    @property
    def labels_granted(self) -> bool:
        """Whether the adversary is told the labels, so that they cannot leak."""
        return bool({"labels", "label_counts"} & self.threat.grants)

    @cached_property
    def _titles(self) -> dict[int, str]:
        return titles((*self.attacks, *self.defenses))

    def title(self, part: Attack | Defense | None) -> str:
        """Return what records and seeds call one of the case's attacks or defenses: the same in every run."""
        return self._titles.get(id(part)) or configuration_of(part)

    @property
    def model_record(self) -> Network:
        """The model as records hold it."""
        trained = (p for p in self.model.parameters() if p.requires_grad)
        name = self.model_name or type(self.model).__name__
        return Network(name=name, parameters=sum(p.numel() for p in trained))

    def protocol_record(self, batch_size: int | None = None) -> Protocol:
        """Return the local training as records hold it. `batch_size`: examples of a client, if they are known."""
        training = self.training
        epochs = steps = 1 if isinstance(training, SingleGradient) else None
        if isinstance(training, LocalSteps):
            told = getattr(training, "epochs", None)
            epochs = told if isinstance(told, int) else None
            steps = None if batch_size is None else training.count_steps(batch_size)
        return Protocol(
            name=type(training).__name__.lower(),
            repr=configuration_of(training),
            kind=training.kind,
            local_epochs=epochs,
            local_steps=steps,
        )

    def client(self, defense: Defense | None = None) -> Client:
        """The client that holds this case's model and trains under `defense`."""
        return Client(
            model=self.model,
            loss=self.loss,
            domain=self.data.domain,
            classes=self.data.classes,
            training=self.training,
            defense=defense,
        )

    def order(self, batch_size: int, repeat: int, seeds: Seeds) -> list[int]:
        """All examples: those of the private batch, then the others."""
        count = len(self.data)
        if self.examples is not None:
            private = list(self.examples[:batch_size])
            taken = set(private)
            return [*private, *(i for i in range(count) if i not in taken)]
        generator = seeds.child("client").generator(f"batch/{repeat}")
        drawn: list[int] = torch.randperm(count, generator=generator).tolist()
        return drawn

    def indices(self, batch_size: int, repeat: int, seeds: Seeds) -> tuple[list[int], list[int]]:
        """Return the examples of the private batch and of the blind control's, or no control's if too few remain.

        No input of the control equals one of the private batch.
        """
        order = self.order(batch_size, repeat, seeds)
        private = order[:batch_size]
        decoys = differing(self.data.inputs, private, order[batch_size:], batch_size)
        return private, decoys if len(decoys) == batch_size else []

    def pool(self, batch_size: int, repeat: int, seeds: Seeds, count: int) -> list[int]:
        """Return up to `count` other examples, none equal to one of the private batch."""
        order = self.order(batch_size, repeat, seeds)
        return differing(self.data.inputs, order[:batch_size], order[batch_size:], count)

    @property
    def last(self) -> int:
        """The example whose targets hold the largest value: the last class, where they are classes."""
        targets = self.data.targets
        return int(targets.flatten(1).amax(1).argmax() if targets.ndim > 1 else targets.argmax())

    def batch(self, indices: Sequence[int]) -> Batch:
        """These examples, in this order."""
        chosen = torch.tensor(indices, dtype=torch.long)
        return Batch(self.data.inputs[chosen], self.data.targets[chosen])

    @property
    def cells(self) -> int:
        """How many audits the case asks for."""
        return len(self.batch_sizes) * self.repeats * len(self.defenses) * len(self.attacks)

    @property
    def trainings(self) -> int:
        """How many trainings the case asks for, at most: a defense that is named twice is trained once."""
        return 0 if self.utility is None else self.utility.repeats * (1 + len(self.defenses))

    def check(self) -> None:
        """Raise a UserError for everything that can be known to fail before any compute."""
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
                expected=f"a batch of at most {available} examples, all that "
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
            # The largest label stands in, as a later draw may hold it.
            client.check(self.batch([last, *indices[1:]]))


@dataclass(frozen=True, repr=False)
class Cell(Summarized):
    """One attack on one update: the unit of work, and of record."""

    index: int
    case: Case
    batch_size: int
    repeat: int
    defense: Defense | None
    attack: Attack

    @property
    def observation_path(self) -> str:
        """Names the seeds of batch and update: equal for all attacks on one update."""
        return f"{self.case.name}/b{self.batch_size}/r{self.repeat}/{self.case.title(self.defense)}"


def cells(cases: Sequence[Case]) -> Iterator[Cell]:
    """All cells, in the order of the plan."""
    index = 0
    for case in cases:
        for batch_size in case.batch_sizes:
            for repeat in range(case.repeats):
                for defense in case.defenses:
                    for attack in case.attacks:
                        yield Cell(index, case, int(batch_size), repeat, defense, attack)
                        index += 1
