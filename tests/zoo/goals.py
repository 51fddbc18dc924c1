"""Losses and their targets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 4

Draw = Callable[[int, torch.Generator], Tensor]
"""Take the number of examples and a generator. Return the targets."""


def labels(count: int, generator: torch.Generator) -> Tensor:
    """Return class indices (B,)."""
    return torch.randint(CLASSES, (count,), generator=generator)


def numbers(*shape: int) -> Draw:
    """Return a function that draws float targets `(B, *shape)` in [0, 1)."""
    return lambda count, generator: torch.rand((count, *shape), generator=generator)


def flags(*shape: int) -> Draw:
    """Return a function that draws float targets `(B, *shape)` of 0 and 1."""
    return lambda count, generator: torch.randint(2, (count, *shape), generator=generator).float()


def signs(count: int, generator: torch.Generator) -> Tensor:
    """Return float targets (B, 1) of -1 and 1."""
    return 2 * flags(1)(count, generator) - 1


def soft(count: int, generator: torch.Generator) -> Tensor:
    """Return rows (B, K) of probabilities."""
    return torch.rand((count, CLASSES), generator=generator).softmax(1)


def planes(count: int, generator: torch.Generator) -> Tensor:
    """Return a class index for each pixel, (B, 8, 8)."""
    return torch.randint(CLASSES, (count, 8, 8), generator=generator)


@dataclass(frozen=True)
class Goal:
    """A loss and its targets.

    Args:
        name: Its name.
        loss: The loss.
        draw: Draws the targets of a batch.
        outputs: The number of outputs that the loss takes.
        classes: The number of classes. None if the targets are no classes.
        plane: Whether the loss takes outputs for each pixel.
    """

    name: str
    loss: Callable[[Tensor, Tensor], Tensor]
    draw: Draw = labels
    outputs: int = CLASSES
    classes: int | None = CLASSES
    plane: bool = False


def focal(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the focal loss of exponent 2."""
    entropy = F.cross_entropy(outputs, targets, reduction="none")
    return ((1 - (-entropy).exp()) ** 2 * entropy).mean()


def hinge(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the binary hinge loss of targets -1 and 1."""
    return (1 - outputs * targets).clamp_min(0).mean()


WEIGHTS = torch.tensor([1.0, 2.0, 0.5, 1.5])


def constants(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return cross-entropy plus a penalty with constants of type float32."""
    return F.cross_entropy(outputs, targets) + 1e-3 * (outputs * WEIGHTS).square().mean()


def divergence(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the KL divergence of the outputs' softmax from soft targets."""
    return F.kl_div(outputs.log_softmax(1), targets, reduction="batchmean")


def first_of(outputs: tuple[Tensor, ...], targets: Tensor) -> Tensor:
    """Return the cross-entropy of the first head plus 0.3 times that of the second."""
    first, second = outputs[0], outputs[1]
    return F.cross_entropy(first, targets) + 0.3 * F.cross_entropy(second, targets)


def keyed(outputs: dict[str, Tensor], targets: Tensor) -> Tensor:
    """Return the cross-entropy of the head `logits`."""
    return F.cross_entropy(outputs["logits"], targets)


GOALS = {
    goal.name: goal
    for goal in [
        Goal("cross_entropy", F.cross_entropy),
        Goal("many_classes", F.cross_entropy, outputs=20, classes=20),
        Goal("sum", partial(F.cross_entropy, reduction="sum")),
        Goal("weighted", nn.CrossEntropyLoss(weight=WEIGHTS)),
        Goal("weighted_closure", lambda z, y: F.cross_entropy(z, y, weight=WEIGHTS.to(z))),
        Goal("smoothed", nn.CrossEntropyLoss(label_smoothing=0.1)),
        Goal("soft_targets", F.cross_entropy, soft),
        Goal("nll", lambda z, y: F.nll_loss(z.clamp_min(1e-6).log(), y)),
        Goal("mse", F.mse_loss, numbers(CLASSES), classes=None),
        Goal("mse_one", F.mse_loss, numbers(1), 1, None),
        Goal("mse_flat", lambda z, y: F.mse_loss(z[:, 0], y), numbers(), 1, None),
        Goal("l1", F.l1_loss, numbers(1), 1, None),
        Goal("smooth_l1", F.smooth_l1_loss, numbers(1), 1, None),
        Goal("huber", nn.HuberLoss(), numbers(1), 1, None),
        Goal("bce_one", F.binary_cross_entropy_with_logits, flags(1), 1, 2),
        Goal("bce_many", F.binary_cross_entropy_with_logits, flags(CLASSES)),
        Goal("multi_margin", F.multi_margin_loss),
        Goal("focal", focal),
        Goal("divergence", divergence, soft),
        Goal("pixelwise", F.cross_entropy, planes, plane=True),
        Goal("hinge", hinge, signs, 1, 2),
        Goal("constants", constants),
        Goal("tuple", first_of),
        Goal("keyed", keyed),
    ]
}
