"""The contribution of one example's slope to the update of a batch.

The slope of an example is the derivative of its loss with respect to its outputs.
"""

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
    """The result if only the directions of contributions are known, and not their sizes.

    The slope of an example in a batch has the same direction as the slope of its own loss.

    Args:
        reason: Why the sizes of contributions are unknown.
        classes: Number of labels of the domain.
    """

    reason: str = "the loss divides by class weights of the batch's labels, which are not granted"
    classes: int = field(kw_only=True)

    @property
    def directions(self) -> Contribution:
        """A contribution whose factors have the right sign but not the right size."""
        return Contribution(None, 1.0, 1.0, self.classes)


@dataclass(frozen=True)
class Contribution:
    """The fraction of its own slope that an example has in the update.

    For an example of label y, it is `size * divisors[y] / total`. For a sum over the batch, it is
    `size`.

    Args:
        divisors: The weight (C,) of each class, or None for a sum over the batch.
        total: Sum of the weights of the batch's examples.
        size: Size of the update relative to one gradient.
        classes: Number of labels of the domain.
    """

    divisors: Tensor | None
    total: float
    size: float
    classes: int

    def factor(self, simulated: int, label: int) -> float:
        """Return the ratio of the client's slopes to those of a simulated loss.

        The simulated loss is that of a batch of `simulated` examples, all with the label `label`.
        """
        if self.divisors is None:
            return self.size
        return self.size * simulated * float(self.divisors[label]) / self.total


def contribution_of(observation: Observation) -> Contribution | Inapplicable:
    """Return the contribution of an example to an update of kind "gradient", or why it is unknown."""
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
    counts = _class_counts(observation, classes)
    if counts is None and batch > 1:
        return UnevenWeights(classes=observation.classes)
    if counts is None:
        # In a batch of one, the weight of the example cancels.
        return Contribution(torch.ones(classes).double(), 1.0, size, observation.classes)
    total = float(reduction.divisors @ counts.double())
    return Contribution(reduction.divisors, total, size, observation.classes)


def _class_counts(observation: Observation, classes: int) -> Tensor | None:
    """Return the number of examples of each class (C,), or None if it is not granted."""
    knowledge = observation.knowledge
    if knowledge.label_counts is not None:
        return torch.cat([knowledge.label_counts.cpu(), torch.zeros(classes)])[:classes]
    labels = knowledge.labels
    if labels is None or labels.ndim != 1 or labels.is_floating_point():
        return None
    return torch.bincount(labels.cpu(), minlength=classes)
