"""Features of each example: the inputs of a linear layer deep in the network, from its gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count

import torch
from torch import Tensor

from leakgauge.analytic.cocktail_party import Unmixer, complete, unmix
from leakgauge.analytic.independence import fixed_point
from leakgauge.analytic.last_layer import HeadGradient, separable_head, unmix_head
from leakgauge.analytic.linear import first_linear, rank_one
from leakgauge.analytic.mixtures import Mixture, mixture
from leakgauge.analytic.tail import Tail
from leakgauge.analytic.views import centered
from leakgauge.core import Inapplicable, Observation, unit_shape
from leakgauge.federated.isolation.probing import doubled, spread
from leakgauge.output import Contribution, contribution_of, head_of

FLOAT64 = torch.zeros((), dtype=torch.float64)
PROBES = 8
"""Number of random inputs that show whether features can be negative."""


@dataclass(frozen=True)
class Deep:
    """The first linear layer that the forward pass calls. Its input is one vector for each example.

    Args:
        name: Name of the layer.
        feature: Function from unit coordinates `(N, *shape)` to the layer's input (N, F), in
            float64.
    """

    name: str
    feature: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Features:
    """Features of each example at a linear layer.

    Args:
        layer: Name of the layer.
        features: (B, F), inputs of the layer.
        labels: (B,), in the same order, -1 if unknown.
        error: (B,), relative error of each example's features. Infinite if they are not known.
        source: The method that found the features, in words.
    """

    layer: str
    features: Tensor
    labels: Tensor
    error: Tensor
    source: str


def deep_layer(observation: Observation) -> Deep | Inapplicable:
    """Return the layer whose inputs can be recovered, or the reason why there is none."""
    reason = observation.not_one_gradient()
    if reason is not None:
        return Inapplicable(reason)
    model = doubled(observation.model).eval()
    found = first_linear(model, observation.domain)
    if found is None:
        return Inapplicable("the model has no linear layer that its forward calls")
    name, linear, feature = found
    if f"{name}.weight" not in observation.update.tensors:
        return Inapplicable(f"the weight of the first linear layer, {name!r}, is not trained")
    axes = feature(spread(unit_shape(observation.domain), 1, FLOAT64)).ndim - 1
    if axes != 1:
        return Inapplicable(
            f"the first linear layer, {name!r}, takes {axes} axes an example, not one vector"
        )
    if linear.bias is None or f"{name}.bias" not in observation.update.tensors:
        return Inapplicable(f"the first linear layer, {name!r}, has no trainable bias to divide by")
    return Deep(name, feature)


Tell = Callable[[float], None]
"""Receives the fraction of a search that is done."""
ReadFeatures = Callable[[torch.Generator, Tell], Features | Inapplicable]
"""Function from a generator for random starts to the features of each example, or the reason why there are none."""


def feature_reader(observation: Observation, *, rounds: int) -> ReadFeatures | Inapplicable:
    """Return the function that recovers the features of each example, or the reason why none can.

    At batch 1 it divides dW by db. At the last layer it uses softmax unmixing. At a layer before
    the last it uses the Cocktail Party Attack.

    Args:
        observation: The observation of one gradient.
        rounds: Largest number of rounds of silent outputs of the Cocktail Party Attack.
    """
    found = deep_layer(observation)
    if isinstance(found, Inapplicable):
        return found
    batch = observation.knowledge.batch_size or 1
    if batch == 1:
        return lambda generator, tell: by_ratio(observation, found)
    head = head_of(observation.model, observation.domain)
    if head is not None and found.name == head.name:
        last = separable_head(observation)
        if isinstance(last, Inapplicable):
            return last
        return partial(by_last_layer, observation, last)
    least = min(observation.update.tensors[f"{found.name}.weight"].shape)
    if batch > least:
        return Inapplicable(
            f"batch {batch} > {least}, the most that the first linear layer, {found.name!r}, tells apart"
        )
    contribution = contribution_of(observation)
    if isinstance(contribution, Inapplicable):
        return contribution
    return partial(by_unmixing, observation, found, contribution, rounds)


def by_ratio(observation: Observation, found: Deep) -> Features | Inapplicable:
    """Return the features of the only example, from the ratio dW_i / db_i, which all outputs i share."""
    weight, bias = gradient(observation, found)
    if not bool(bias.any()):
        return Inapplicable("the bias of the first linear layer has no gradient to divide by")
    features = rank_one(weight, bias, torch.ones_like(weight)).unsqueeze(0)
    error = torch.zeros(1, dtype=torch.float64)
    return Features(
        found.name, features, torch.tensor([-1]), error, f"dW / db of {found.name!r}, 1 of 1"
    )


def by_last_layer(
    observation: Observation, head: HeadGradient, generator: torch.Generator, tell: Tell
) -> Features:
    """Return the features at the last layer, by softmax unmixing."""
    seen = unmix_head(observation, head, generator, tell=tell)
    error = torch.where(seen.found, seen.error, torch.inf)
    source = f"softmax unmixing of {head.name!r}, {int(seen.found.sum())} of {len(error)}"
    return Features(head.name, seen.features, seen.labels, error, source)


def by_unmixing(
    observation: Observation,
    found: Deep,
    contribution: Contribution,
    rounds: int,
    generator: torch.Generator,
    tell: Tell,
) -> Features | Inapplicable:
    """Return the features of a batch at a layer before the last, by the Cocktail Party Attack."""
    shared: Mixture = mixture(*gradient(observation, found), observation.batch_size)
    if not len(shared.strength):
        return Inapplicable("the first linear layer's gradient is not above the noise")
    shape = (PROBES, *unit_shape(observation.domain))
    probes = found.feature(torch.rand(shape, generator=generator, dtype=torch.float64))
    # Features behind a ReLU are at least 0. Random inputs show whether this is so.
    least = 0.0 if bool((probes >= 0).all()) else -torch.inf
    unmixer = Unmixer(
        tail=Tail.of(observation, found.name, contribution),
        views=centered,
        rotate=fixed_point,
        plausible=lambda features: features.clamp_min(least),
    )
    done = count()
    sources = unmix(
        shared, unmixer, generator, rounds=rounds, tell=lambda _: tell(next(done) / (rounds + 1))
    )
    blank = torch.zeros(probes.shape[1], dtype=torch.float64)
    sources = complete(sources, observation.batch_size, blank)
    source = (
        f"Cocktail Party Attack on {found.name!r}, {int(sources.proven.sum())} of "
        f"{observation.batch_size} confirmed by the model"
    )
    return Features(found.name, sources.features, sources.labels, sources.error, source)


def gradient(observation: Observation, found: Deep) -> tuple[Tensor, Tensor]:
    """Return the gradients dW (O, F) and db (O,) of the layer's weight and bias, in float64 on the CPU."""
    tensors = observation.update.tensors
    weight, bias = (tensors[f"{found.name}.{part}"] for part in ("weight", "bias"))
    return weight.double().cpu(), bias.double().cpu()
