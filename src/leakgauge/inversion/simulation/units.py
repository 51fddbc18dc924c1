"""Updates of an unusual scale in units of their own size: squares of 1e-30 are 0 in float32."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from leakgauge.core import InUpdateUnits, Loss, Observation, SingleGradient, effect
from leakgauge.federated.isolation.untouched import value_of
from leakgauge.federated.training.fedsgd import FedSGD

USUAL = (1e-6, 1e6)
"""Largest entries of an update between which no squares are lost."""


def rescale(observation: Observation) -> Observation:
    """Return the observation of the loss divided by one public number, by which the update is about 1.

    A gradient is linear in its loss, so this is the same problem. The observation is returned as it is if the scale is
    usual, the update is no single gradient, or a known defense has units of its own.
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
    return float(f"{number:e}".partition("e")[2])


def _divided(loss: Loss, unit: float) -> Loss:
    def divided(outputs: Tensor, targets: Tensor) -> Tensor:
        return value_of(loss, outputs, targets) / unit

    return divided
