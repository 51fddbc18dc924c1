"""The gradient of the last layer of an observation, and the features that softmax unmixing recovers from it."""

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
"""Relative rounding error of each type."""
CODED = {"bfloat16": torch.bfloat16, "float16": torch.float16}
"""Shorter types that an update may be rounded to, by name."""


def recover_features(
    observation: Observation, generator: torch.Generator, *, noise: Blur | None = None
) -> Unmixed | Inapplicable:
    """Return the features recovered from the last layer's gradient, or why there are none.

    Args:
        observation: The observation of one gradient.
        generator: Source of the search's draws.
        noise: Noise of the update. See `unmix_head`.

    Example:
        >>> import torch
        >>> import leakgauge as lg
        >>> from leakgauge.analytic.last_layer import recover_features
        >>> observation = lg.examples.observation(batch_size=2, threat=lg.Server())
        >>> found = recover_features(observation, torch.Generator().manual_seed(0))
        >>> found.certified, found.features.shape
        (True, torch.Size([2, 32]))
    """
    found = separable_head(observation)
    if isinstance(found, Inapplicable):
        return found
    return unmix_head(observation, found, generator, noise=noise)


def separable_head(observation: Observation) -> HeadGradient | Inapplicable:
    """Return the head's gradient if it can separate the examples, else the reason why it cannot."""
    found = last_layer(observation)
    if isinstance(found, Inapplicable):
        return found
    reason = why_indistinct(found)
    return found if reason is None else Inapplicable(reason)


def why_indistinct(head: HeadGradient) -> str | None:
    """Return why the head's gradient does not separate the examples, in one line, or None if it does."""
    layer, link = head.layer, head.link
    if layer.dbias is not None and not bool(layer.dbias.any()):
        return "the gradient of the last layer's bias is 0"
    if layer.batch > 1 and not link.even:
        return "the loss has unequal class weights, and those of the batch are not known"
    if layer.batch > min(len(link.targets) - 1, layer.weight.shape[1] + 1):
        return (
            f"a last layer of {len(link.targets)} outputs cannot tell {layer.batch} examples apart"
        )
    return None


def unmix_head(
    observation: Observation,
    head: HeadGradient,
    generator: torch.Generator,
    *,
    noise: Blur | None = None,
    tell: Callable[[float], None] | None = None,
) -> Unmixed:
    """Return the features that follow from the head's gradient.

    Args:
        observation: The observation of one gradient.
        head: The head and its gradient.
        generator: Source of the search's draws.
        noise: Noise of the update. By default the noise that a known defense adds, else the
            rounding that the update's type and values show.
        tell: Receives, from time to time, the fraction of the search that is done.
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
    """The head and its mean gradient, for a mean loss of scale 1.

    Args:
        head: The module and the names of its parameters.
        layer: The last layer and its gradients.
        link: The loss.
        shared: The gradient of the head's weight, as the client shared it.
    """

    head: Head
    layer: Layer
    link: LossLink
    shared: Tensor

    @property
    def name(self) -> str:
        """The name of the module."""
        return self.head.name


def last_layer(observation: Observation) -> HeadGradient | Inapplicable:
    """Return the head with its mean gradient, or the reason why it cannot be computed.

    The gradient is divided by the scales of the loss and of the logits, and by B if the loss is a
    sum. Each example i then adds `w[y_i] (act(z_i / temperature) - targets[y_i]) h_i' / B` to the
    gradient of the weight. `LossLink` defines act and targets. A mean over unequal class weights w
    has the sum of the batch's weights as its divisor, instead of B.
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
            "the loss is neither cross-entropy (softmax or binary) nor squared error, as a mean or a sum over the batch"
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
    """Return the divisor of the head's gradient: the loss's scale, times B if the loss is a sum."""
    return link.scale * (batch if link.reduction.divisors is None else 1)


def unit_ratio(layer: Layer, shared: Tensor) -> float:
    """Return the factor from the shared gradient `shared` to the layer's gradient.

    It combines the scales of the loss and of the logits.
    """
    return float(layer.dweight.norm() / shared.double().norm())


def known_noise(observation: Observation, layer: Layer, shared: Tensor) -> Blur | None:
    """Return the noise that a known defense adds, in the layer's units, or None if it adds none.

    `shared` is the gradient of the layer's weight, as the client shared it.
    """
    noise = observation.noise
    return None if noise is None else Blur(sigma=noise.std * unit_ratio(layer, shared))


def rounding(shared: Tensor) -> Blur:
    """Return the rounding error of an update. If a shorter type holds all values exactly, that type counts."""
    computed = ROUNDING.get(shared.dtype, 2.0**-24)
    for dtype in CODED.values():
        if shared.dtype != dtype and bool((shared == shared.to(dtype).to(shared.dtype)).all()):
            return Blur(ROUNDING[dtype], computed)
    return Blur(computed, computed)


def label_counts(observation: Observation, classes: int) -> Tensor | None:
    """Return the number of examples of each class (C,) if labels or counts are granted, else None."""
    knowledge = observation.knowledge
    if knowledge.label_counts is not None:
        return knowledge.label_counts.cpu()
    labels = knowledge.labels
    if labels is None or labels.ndim != 1 or labels.is_floating_point():
        return None
    return torch.bincount(labels.cpu(), minlength=classes)
