"""From an observation to the last layer's gradient, and the features that softmax unmixing reads from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from leakgauge.analytic.loss_link import LossLink, link_of
from leakgauge.analytic.softmax_unmixing import Unmixed, unmix
from leakgauge.analytic.whitening import Blur, Layer
from leakgauge.core import Inapplicable, Observation
from leakgauge.output import Head, shared_head

ROUNDING = {
    torch.float64: 2.0**-53,
    torch.float32: 2.0**-24,
    torch.bfloat16: 2.0**-9,
    torch.float16: 2.0**-12,
}
CODED = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def read(
    observation: Observation, generator: torch.Generator, *, noise: Blur | None = None
) -> Unmixed | Inapplicable:
    """Return the features that the last layer's gradient tells, or the reason why it tells none.

    noise: as in `unmixed`.
    """
    found = readable(observation)
    if isinstance(found, Inapplicable):
        return found
    return unmixed(observation, found, generator, noise=noise)


def readable(observation: Observation) -> HeadGradient | Inapplicable:
    """Return the head's gradient if it tells examples apart, else the reason why it does not."""
    found = last_layer(observation)
    if isinstance(found, Inapplicable):
        return found
    reason = indistinct(found)
    return found if reason is None else Inapplicable(reason)


def indistinct(head: HeadGradient) -> str | None:
    """Return why the head's gradient does not tell examples apart, in one line, or None if it does."""
    layer, link = head.layer, head.link
    if layer.dbias is not None and not bool(layer.dbias.any()):
        return "the gradient of the last layer's bias is 0"
    if layer.batch > 1 and not link.even:
        return "the loss weighs classes unevenly, and the weights of the batch are not known"
    if layer.batch > min(len(link.targets) - 1, layer.weight.shape[1] + 1):
        return (
            f"a last layer of {len(link.targets)} outputs cannot tell {layer.batch} examples apart"
        )
    return None


def unmixed(
    observation: Observation,
    head: HeadGradient,
    generator: torch.Generator,
    *,
    noise: Blur | None = None,
    tell: Callable[[float], None] | None = None,
) -> Unmixed:
    """Return the features that the head's gradient tells.

    Args:
        noise: of the update. By default what a known defense adds, else the rounding that its type and values show.
        tell: is told, from time to time, the fraction of the search that is done.
    """
    return unmix(
        head.layer,
        head.link,
        generator=generator,
        noise=noise or known_noise(observation, head.layer, head.shared) or rounding(head.shared),
        counts=label_counts(observation, len(head.link.targets)),
        tell=tell,
    )


@dataclass(frozen=True)
class HeadGradient:
    """The head and its mean gradient, in units of a mean loss of scale 1.

    head: the module and its parameters, by name. link: of the loss. shared: the gradient of the head's weight, as it
    was shared.
    """

    head: Head
    layer: Layer
    link: LossLink
    shared: Tensor

    @property
    def name(self) -> str:
        """Return the name of the module."""
        return self.head.name


def last_layer(observation: Observation) -> HeadGradient | Inapplicable:
    """Return the head with its mean gradient, or the reason why it cannot be read.

    Sums over the batch, scales of the loss and of the logits are divided out: all that reads the layer sees
    1 / B sum_i weights[y_i] (act(z_i / temperature) - targets[y_i]) h_i', except for uneven class weights.
    """
    reason = observation.not_one_gradient()
    if reason is not None:
        return Inapplicable(reason)
    if observation.knowledge.batch_size is None:
        return Inapplicable("needs the batch size")
    head = shared_head(observation)
    if isinstance(head, Inapplicable):
        return head
    if not bool(head.dweight.any()):
        return Inapplicable("the last layer's gradient is 0")
    link = link_of(head.loss, len(head.weight))
    if link is None:
        return Inapplicable(
            "the loss is not cross-entropy, nor another whose gradient is act(z) - target, by a mean or a sum"
        )
    whole = unit_of(link, observation.batch_size)
    layer = Layer(
        head.weight,
        head.bias,
        head.dweight / whole,
        None if head.dbias is None else head.dbias / whole,
        observation.batch_size,
    )
    return HeadGradient(
        head=head.head,
        layer=layer,
        link=replace(link, scale=1.0),
        shared=observation.update.tensors[head.head.weight],
    )


def unit_of(link: LossLink, batch: int) -> float:
    """Return what the head's gradient is divided by: the loss's scale, times B for a sum."""
    return link.scale * (batch if link.reduction.divisors is None else 1)


def units(layer: Layer, shared: Tensor) -> float:
    """Return the layer's gradient divided by `shared`, the same gradient as it was shared.

    That is one number, of the scales of the loss and of the logits.
    """
    return float(layer.dweight.norm() / shared.double().norm())


def known_noise(observation: Observation, layer: Layer, shared: Tensor) -> Blur | None:
    """Return the noise that a known defense adds, in the layer's units, or None if it adds none.

    shared: the gradient of the layer's weight, as it was shared.
    """
    noise = observation.noise
    return None if noise is None else Blur(sigma=noise.std * units(layer, shared))


def rounding(shared: Tensor) -> Blur:
    """The rounding of an update: its type's, or a shorter one's that all its values fit."""
    computed = ROUNDING.get(shared.dtype, 2.0**-24)
    for dtype in CODED.values():
        if shared.dtype != dtype and bool((shared == shared.to(dtype).to(shared.dtype)).all()):
            return Blur(ROUNDING[dtype], computed)
    return Blur(computed, computed)


def label_counts(observation: Observation, classes: int) -> Tensor | None:
    """How many examples of each class (C,), where granted as class labels or as counts."""
    knowledge = observation.knowledge
    if knowledge.label_counts is not None:
        return knowledge.label_counts.cpu()
    labels = knowledge.labels
    if labels is None or labels.ndim != 1 or labels.is_floating_point():
        return None
    return torch.bincount(labels.cpu(), minlength=classes)
