"""How large the update of a local training is against one gradient, measured by running it on invented examples.

A user's own local training says nothing of its steps. But it can be called: on random inputs with random labels its
update is compared with the gradient of the loss there.
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
    copied,
    unit_shape,
)
from leakgauge.federated.isolation.probing import probing
from leakgauge.federated.training.fedsgd import FedSGD
from leakgauge.federated.training.rounds import Rounds
from leakgauge.federated.training.withheld import is_withheld
from leakgauge.federated.training.wrapper import StepsWrapper, Task, Wrapper

DRAWS = 2
"""Invented batches that the training is run on."""
ALONG = 0.9
"""Least cosine of update and gradient at which their ratio means something."""
EXACT = 1e-4
"""Relative error up to which an update is a multiple of the gradient: rounding of float32."""


@dataclass(frozen=True)
class Calibration:
    """The update is -size (a weight difference) or size (a gradient) times the gradient of the loss.

    size: None if the update does not point along the gradient. exact: whether the two are proportional.
    """

    size: float | None
    exact: bool


@dataclass(frozen=True)
class Calibrated(Wrapper):
    """A user's own local training whose update is a weight difference, with the measured multiplier."""

    size: float
    exact: bool
    weight_decay: float = 0.0

    @property
    def kind(self) -> UpdateKind:
        return "delta"

    def taken(self, count: int) -> int:
        """Return 1 if the update is that of one step, else 2: several."""
        return 1 if self.exact else 2

    def multiplier(self, count: int) -> float:
        """Return the update's size relative to a gradient that stays the same over all steps."""
        return self.size

    def whole(self, count: int) -> bool:
        """Return whether the order of the examples does not matter. It may in several steps."""
        return self.exact

    def update(self, task: Task) -> Tensors:
        """Return the update of the user's training."""
        return task.by(self.training)


def steps_of(observation: Observation) -> LocalSteps | None:
    """Return the local steps of a weight difference, told or measured, or None if neither is possible."""
    training = observation.training
    if is_withheld(training):
        return None
    if _tells(training):
        return training
    found = calibrated(observation)
    return None if found.size is None else Calibrated(training, found.size, found.exact)


def one_gradient(observation: Observation) -> bool:
    """Return whether the update, up to a known factor, is one gradient of the loss at the model that was sent.

    What is proven of a gradient is proven of such an update only.
    """
    training = observation.training
    if training.kind == "delta":
        known = steps_of(observation)
        return known is not None and known.taken(observation.knowledge.batch_size or 1) == 1
    return calibrated(observation).exact


def gradient_size(observation: Observation) -> float:
    """Return the size of an update of kind "gradient" against the gradient of the loss: 1 if it is not measurable."""
    if observation.training.kind != "gradient":
        return 1.0
    return calibrated(observation).size or 1.0


def calibrated(observation: Observation) -> Calibration:
    """Return how large the update is against one gradient of the loss at the model that was sent."""
    training = observation.training
    inner = training.training if isinstance(training, Rounds) else training
    if isinstance(inner, FedSGD):
        return Calibration(1.0, exact=True)
    if is_withheld(inner) or (inner.kind == "delta" and _tells(inner)):
        return Calibration(None, exact=False)
    classes = observation.classes
    if classes is None or observation.knowledge.batch_size is None:
        return Calibration(None, exact=False)
    try:
        draws = [_drawn(observation, inner, classes, draw) for draw in range(DRAWS)]
    except ProbeError:
        return Calibration(None, exact=False)
    sizes = [size for size, _ in draws]
    # A slope of zero has no direction: its cosine is not a number.
    turned = {cosine > 0 for _, cosine in draws}
    if len(turned) > 1 or not all(abs(cosine) >= ALONG for _, cosine in draws):
        return Calibration(None, exact=False)
    size = sum(sizes) / len(sizes)
    apart = max(abs(one - size) for one in sizes) / abs(size)
    return Calibration(
        size, exact=apart < EXACT and all(1 - abs(c) < EXACT**2 * 10 for _, c in draws)
    )


def _tells(training: LocalTraining) -> TypeGuard[LocalSteps]:
    """Return whether a training, and the one that it wraps, say of themselves how many steps they take."""
    inner = training.training if isinstance(training, StepsWrapper) else training
    return isinstance(training, LocalSteps) and isinstance(inner, LocalSteps)


def _drawn(
    observation: Observation, training: LocalTraining, classes: int, draw: int
) -> tuple[float, float]:
    """Return ratio and cosine of the update and the gradient of one invented batch."""
    generator = torch.Generator().manual_seed(draw)  # probes of a map: any points serve
    count = observation.batch_size
    like = observation.update.like
    unit = torch.rand((count, *unit_shape(observation.domain)), generator=generator).to(like)
    targets = torch.randint(0, classes, (count,), generator=generator).to(like.device)
    inputs = observation.domain.from_unit(unit)
    sign = -1.0 if training.kind == "delta" else 1.0
    # The training may draw numbers of its own, and move the model's state.
    with probing("local training"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(draw)
        made = training(copied(observation.model), observation.loss, inputs, targets)
        slope = FedSGD()(copied(observation.model), observation.loss, inputs, targets)
    one = sign * torch.cat([made[name].detach().double().flatten() for name in slope])
    other = torch.cat([t.detach().double().flatten() for t in slope.values()])
    size = float(one @ other / other.square().sum())
    cosine = float(one @ other / (one.norm() * other.norm()))
    return size, cosine
