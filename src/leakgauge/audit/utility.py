"""How an audit measures what its defenses cost: how a case's model is trained, and on what."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

import torch

from leakgauge.core import DataError, Seeds
from leakgauge.core.ranges import Count, Positive, check_fields
from leakgauge.core.summaries import Summarized
from leakgauge.data import Dataset
from leakgauge.utility import Federation

HELD_OUT = 0.2
"""Share of the training data that becomes the test set where none is named."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Utility(Summarized):
    """Federated training of a case's model by its own local training, under each of its defenses and under none.

    `train`: the case's data where left out. `test`: where left out, a fifth of the training data, drawn by the seed and
    held out of it. `repeats`: how often, each time with the data shared out anew, and equal for all defenses. The
    others are those of `leakgauge.utility.Federation`.
    """

    clients: Count = Federation.clients
    rounds: Count = Federation.rounds
    alpha: Positive = Federation.alpha
    examples: Count | None = Federation.examples
    server_lr: Positive = Federation.server_lr
    train: Dataset | None = field(default=None, repr=False)
    test: Dataset | None = field(default=None, repr=False)
    repeats: Count = 1

    def __post_init__(self) -> None:
        """Raise SpecificationError if an option is of another kind than its annotation, or out of range."""
        check_fields(self)

    @property
    def federation(self) -> Federation:
        """Who trains, and how."""
        return Federation(**{each.name: getattr(self, each.name) for each in fields(Federation)})

    def check(self, case: str, data: Dataset) -> None:
        """Raise DataError unless training and test data are of the kind of the case's `data`, and suffice."""
        for name, part in (("train", self.train), ("test", self.test)):
            if part is not None and (part.domain, part.classes) != (data.domain, data.classes):
                raise DataError(
                    f"case {case!r}, utility.{name}",
                    expected=f"{data.classes} classes on {data.domain!r}, as the case's data",
                    found=f"{part.classes} classes on {part.domain!r}",
                    remedy="name data of the same size and classes",
                )
        available, least = len(self.train or data), self.clients + (self.test is None)
        if available < least:
            raise DataError(
                f"case {case!r}, utility",
                expected=f"at least {least} examples, for {self.clients} clients and a test set",
                found=str(available),
                remedy="name more training data, or lower clients",
            )

    def split(self, data: Dataset, seeds: Seeds) -> tuple[Dataset, Dataset]:
        """What is trained on, and what is tested on, where the case's own data is `data`."""
        train = self.train or data
        if self.test is not None:
            return train, self.test
        order = torch.randperm(len(train), generator=seeds.generator("held out"))
        held = max(1, round(HELD_OUT * len(train)))
        return taken(train, order[held:]), taken(train, order[:held])


def taken(data: Dataset, indices: torch.Tensor) -> Dataset:
    """These examples, in the order of the data."""
    chosen = indices.sort().values
    return replace(data, inputs=data.inputs[chosen], targets=data.targets[chosen])
