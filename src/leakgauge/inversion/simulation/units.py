"""Rescaling of updates that are very small or very large: in float32, the square of 1e-30 is 0."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from leakgauge.core import InUpdateUnits, Loss, Observation, SingleGradient, effect
from leakgauge.federated.isolation.untouched import value_of
from leakgauge.federated.training.fedsgd import FedSGD

USUAL = (1e-6, 1e6)
"""Range of an update's largest entry in which float32 keeps the squares."""


def rescale(observation: Observation) -> Observation:
    """Return the observation with a scaled loss, so that the update is about 1.

    The loss is divided by one public number. A gradient is linear in its loss, so the problem stays
    the same. Some observations are returned unchanged: the scale is usual, the update is not one
    gradient, or a known defense has units of its own.
    """
    largest = max(float(t.abs().max()) for t in observation.update.tensors.values() if t.numel())
    absolute = effect(observation, InUpdateUnits) is not None
    single = isinstance(observation.training, FedSGD | SingleGradient)
    if largest == 0 or USUAL[0] <= largest <= USUAL[1] or absolute or not single:
        return observation
    # In float32 neither the unit nor its inverse may overflow.
    unit = 10.0 ** round(_exponent(largest))
    return replace(
        observation,
        loss=_divided(observation.loss, unit),
        update=observation.update.map(lambda t: t / unit),
    )


def _exponent(number: float) -> float:
    """Return the exponent of a number in base 10."""
    return float(f"{number:e}".partition("e")[2])


def _divided(loss: Loss, unit: float) -> Loss:
    """Return the loss divided by `unit`."""

    def divided(outputs: Tensor, targets: Tensor) -> Tensor:
        return value_of(loss, outputs, targets) / unit

    return divided
