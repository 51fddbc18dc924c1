"""A measurement of the size of a local training's update, relative to one gradient.

A user's local training may not state its steps, but it can be called. Its update on random inputs
with random labels is compared with the gradient of the loss on the same batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeGuard

import torch

from leakgauge.core import (
    LocalSteps,
    LocalTraining,
    Observation,
    ProbeError,
    Tensors,
    UpdateKind,
    deep_copy,
    unit_shape,
)
from leakgauge.federated.isolation.probing import probing
from leakgauge.federated.training.fedsgd import FedSGD
from leakgauge.federated.training.rounds import Rounds
from leakgauge.federated.training.withheld import is_withheld
from leakgauge.federated.training.wrapper import StepsWrapper, Task, Wrapper

DRAWS = 2
"""Number of random batches of the measurement."""
ALONG = 0.9
"""Least cosine between update and gradient for which their ratio is used."""
EXACT = 1e-4
"""Relative error, from rounding in float32, up to which an update counts as a multiple of the gradient."""


@dataclass(frozen=True)
class Calibration:
    """The size of an update relative to the gradient of the loss.

    An update of kind "gradient" is `size` times the gradient. A weight difference is `-size` times the
    gradient.

    Args:
        size: The factor, or None if the update does not point along the gradient.
        exact: Whether update and gradient are proportional.
    """

    size: float | None
    exact: bool


@dataclass(frozen=True)
class Calibrated(Wrapper):
    """A user's local training whose update is a weight difference, with its measured size.

    Args:
        training: The user's local training.
        size: See `Calibration`.
        exact: See `Calibration`.
        weight_decay: Weight decay of a step. It is not measured, and counts as 0.
    """

    size: float
    exact: bool
    weight_decay: float = 0.0

    @property
    def kind(self) -> UpdateKind:
        """The word "delta", since the update is a weight difference."""
        return "delta"

    def count_steps(self, count: int) -> int:
        """Return 1 if the update is that of one step, else 2, which stands for several steps."""
        return 1 if self.exact else 2

    def multiplier(self, count: int) -> float:
        """Return the size of the update relative to a gradient that is constant over all steps."""
        return self.size

    def ignores_order(self, count: int) -> bool:
        """Return whether the order of the examples does not matter. It may matter in several steps."""
        return self.exact

    def update(self, task: Task) -> Tensors:
        """Return the update of the user's training."""
        return task.by(self.training)


def steps_of(observation: Observation) -> LocalSteps | None:
    """Return the local steps of a weight difference, stated or measured, or None if they are unknown."""
    training = observation.training
    if is_withheld(training):
        return None
    if _states_steps(training):
        return training
    found = calibrate(observation)
    return None if found.size is None else Calibrated(training, found.size, found.exact)


def one_gradient(observation: Observation) -> bool:
    """Return whether the update is one gradient at the server's model, up to a known factor.

    A proof about one gradient holds only for these updates.
    """
    training = observation.training
    if training.kind == "delta":
        known = steps_of(observation)
        return known is not None and known.count_steps(observation.knowledge.batch_size or 1) == 1
    return calibrate(observation).exact


def gradient_size(observation: Observation) -> float:
    """Return the size of an update of kind "gradient" relative to the gradient of the loss.

    This is 1 if the size cannot be measured.
    """
    if observation.training.kind != "gradient":
        return 1.0
    return calibrate(observation).size or 1.0


def calibrate(observation: Observation) -> Calibration:
    """Return the measured size of the update, relative to one gradient of the loss at the server's model."""
    training = observation.training
    inner = training.training if isinstance(training, Rounds) else training
    if isinstance(inner, FedSGD):
        return Calibration(1.0, exact=True)
    if is_withheld(inner) or (inner.kind == "delta" and _states_steps(inner)):
        return Calibration(None, exact=False)
    classes = observation.classes
    if classes is None or observation.knowledge.batch_size is None:
        return Calibration(None, exact=False)
    try:
        draws = [_drawn(observation, inner, classes, draw) for draw in range(DRAWS)]
    except ProbeError:
        return Calibration(None, exact=False)
    sizes = [size for size, _ in draws]
    # A gradient of zero has no direction, and its cosine is NaN.
    turned = {cosine > 0 for _, cosine in draws}
    if len(turned) > 1 or not all(abs(cosine) >= ALONG for _, cosine in draws):
        return Calibration(None, exact=False)
    size = sum(sizes) / len(sizes)
    apart = max(abs(one - size) for one in sizes) / abs(size)
    return Calibration(
        size, exact=apart < EXACT and all(1 - abs(c) < EXACT**2 * 10 for _, c in draws)
    )


def _states_steps(training: LocalTraining) -> TypeGuard[LocalSteps]:
    """Return whether a training, and the one that it wraps, state how many steps they take."""
    inner = training.training if isinstance(training, StepsWrapper) else training
    return isinstance(training, LocalSteps) and isinstance(inner, LocalSteps)


def _drawn(
    observation: Observation, training: LocalTraining, classes: int, draw: int
) -> tuple[float, float]:
    """Return the ratio and the cosine between the update and the gradient, on one random batch."""
    # Fixed seeds are enough: the measurement works at any points.
    generator = torch.Generator().manual_seed(draw)
    count = observation.batch_size
    like = observation.update.like
    unit = torch.rand((count, *unit_shape(observation.domain)), generator=generator).to(like)
    targets = torch.randint(0, classes, (count,), generator=generator).to(like.device)
    inputs = observation.domain.from_unit(unit)
    sign = -1.0 if training.kind == "delta" else 1.0
    # The training may draw random numbers and change the model's state.
    with probing("local training"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(draw)
        made = training(deep_copy(observation.model), observation.loss, inputs, targets)
        slope = FedSGD()(deep_copy(observation.model), observation.loss, inputs, targets)
    one = sign * torch.cat([made[name].detach().double().flatten() for name in slope])
    other = torch.cat([t.detach().double().flatten() for t in slope.values()])
    size = float(one @ other / other.square().sum())
    cosine = float(one @ other / (one.norm() * other.norm()))
    return size, cosine
