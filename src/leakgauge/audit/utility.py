"""Options to measure what the defenses of an audit cost."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

import torch

from leakgauge.core import DataError, Seeds
from leakgauge.core.ranges import Count, Positive, check_fields
from leakgauge.core.summaries import Summarized
from leakgauge.data import Dataset
from leakgauge.utility import Federation

HELD_OUT = 0.2
"""Fraction of the training data that becomes the test set by default."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Utility(Summarized):
    """Federated training of a case's model, to measure what each defense costs.

    The model is trained with the case's own local training: without a defense, and under each of its defenses. Use it
    as `utility` of a `Case`. Defaults of the first five options are those of `leakgauge.utility.Federation`.

    Args:
        clients: Number of clients, at least 1.
        rounds: Number of rounds, at least 1.
        alpha: Evenness of the labels over clients, above 0, see `leakgauge.utility.label_skew`.
        examples: Number of its own examples that a client draws in each round. None uses all of them.
        server_lr: Step size of the server, above 0.
        train: Training data. The default is the case's data.
        test: Test data. By default, the seed holds out a fifth of the training data.
        repeats: Number of trainings for each defense, at least 1. Each repeat divides the data among
            clients anew, in the same way for all defenses.

    Raises:
        SpecificationError: An option has another type than its annotation, or lies out of range.

    Example:
        >>> import leakgauge as lg
        >>> data = lg.data.digits()
        >>> utility = lg.Utility(clients=2, rounds=1)
        >>> train, test = utility.split(data, lg.Seeds(0))
        >>> len(train), len(test)
        (1438, 359)
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
        """Raise SpecificationError if an option has another type than its annotation or lies out of range."""
        check_fields(self)

    @property
    def federation(self) -> Federation:
        """The federated training that these options describe."""
        return Federation(**{each.name: getattr(self, each.name) for each in fields(Federation)})

    def check(self, case: str, data: Dataset) -> None:
        """Raise DataError if training or test data differ from `data` in domain or classes, or examples are too few.

        It is also raised for data of one class, such as text for a language model: its accuracy says nothing.
        """
        if data.classes == 1:
            raise DataError(
                f"case {case!r}, utility",
                expected="data with at least two classes, since the cost is measured in accuracy",
                found=f"{data.name!r} with one class",
                remedy='leave utility out, or use labels: task = "classification"',
            )
        for name, part in (("train", self.train), ("test", self.test)):
            if part is not None and (part.domain, part.classes) != (data.domain, data.classes):
                raise DataError(
                    f"case {case!r}, utility.{name}",
                    expected=f"{data.classes} classes on {data.domain!r}, like the case's data",
                    found=f"{part.classes} classes on {part.domain!r}",
                    remedy="choose data of the same size and with the same classes",
                )
        available, least = len(self.train or data), self.clients + (self.test is None)
        if available < least:
            raise DataError(
                f"case {case!r}, utility",
                expected=f"at least {least} examples, for {self.clients} clients and a test set",
                found=str(available),
                remedy="give more training data, or lower clients",
            )

    def split(self, data: Dataset, seeds: Seeds) -> tuple[Dataset, Dataset]:
        """Return the training data and the test data of a case whose own data is `data`."""
        train = self.train or data
        if self.test is not None:
            return train, self.test
        order = torch.randperm(len(train), generator=seeds.generator("held out"))
        held = max(1, round(HELD_OUT * len(train)))
        return select(train, order[held:]), select(train, order[:held])


def select(data: Dataset, indices: torch.Tensor) -> Dataset:
    """Return the examples with these indices, in the order of the data."""
    chosen = indices.sort().values
    return replace(data, inputs=data.inputs[chosen], targets=data.targets[chosen])
