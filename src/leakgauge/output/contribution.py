"""How much of the slope of one example is in the update of a batch."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from leakgauge.core import Inapplicable, Observation, ProbeError
from leakgauge.federated.training.calibration import gradient_size
from leakgauge.output.head import head_of
from leakgauge.output.reduction import reduction_of


@dataclass(frozen=True)
class UnevenWeights(Inapplicable):
    """The sizes of contributions are not known. Directions are: the slope of an example points where its own does."""

    reason: str = "the loss divides by class weights of the batch's labels, which are not granted"
    classes: int = field(kw_only=True)

    @property
    def directions(self) -> Contribution:
        """Return a contribution whose factors are right but for their sizes."""
        return Contribution(None, 1.0, 1.0, self.classes)


@dataclass(frozen=True)
class Contribution:
    """The fraction of its own slope that an example of label y has in the update: size divisors[y] / total.

    divisors (C,), or None for a sum over the batch. total: the sum of the batch's divisors. classes: how many labels
    the domain has.
    """

    divisors: Tensor | None
    total: float
    size: float
    classes: int

    def factor(self, simulated: int, label: int) -> float:
        """Return what turns the slopes of a loss of `simulated` examples, all of this label, into the client's."""
        if self.divisors is None:
            return self.size
        return self.size * simulated * float(self.divisors[label]) / self.total


def contribution_of(observation: Observation) -> Contribution | Inapplicable:
    """Return how an example adds to an update of kind "gradient", or in one line why that is not known."""
    if observation.classes is None:
        return Inapplicable("needs a loss over classes")
    if observation.knowledge.batch_size is None:
        return Inapplicable("needs the batch size")
    try:
        head = head_of(observation.model, observation.domain)
    except ProbeError as error:
        return Inapplicable(" ".join(str(error).split()))
    loss, width = observation.loss, observation.classes
    if head is not None:
        loss, width = head.loss(observation.loss), head.outputs
    classes = max(observation.classes, width)
    reduction = reduction_of(loss, classes, width=width)
    if reduction is None:
        return Inapplicable(
            "the loss over class labels is neither a mean nor a sum over the examples"
        )
    size, batch = gradient_size(observation), observation.batch_size
    if reduction.divisors is None or reduction.even:
        return Contribution(reduction.divisors, float(batch), size, observation.classes)
    counts = _counts(observation, classes)
    if counts is None and batch > 1:
        return UnevenWeights(classes=observation.classes)
    if counts is None:
        # Of one example the weight cancels.
        return Contribution(torch.ones(classes).double(), 1.0, size, observation.classes)
    total = float(reduction.divisors @ counts.double())
    return Contribution(reduction.divisors, total, size, observation.classes)


def _counts(observation: Observation, classes: int) -> Tensor | None:
    """How many examples of each class (C,), if they are granted."""
    knowledge = observation.knowledge
    if knowledge.label_counts is not None:
        return torch.cat([knowledge.label_counts.cpu(), torch.zeros(classes)])[:classes]
    labels = knowledge.labels
    if labels is None or labels.ndim != 1 or labels.is_floating_point():
        return None
    return torch.bincount(labels.cpu(), minlength=classes)
