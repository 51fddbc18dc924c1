"""A weight difference of several local steps, seen in simpler ways."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from leakgauge.core import Observation, Tensors, Update, copied, in_other_units, trainable
from leakgauge.federated.training.calibration import steps_of
from leakgauge.federated.training.fedsgd import FedSGD
from leakgauge.federated.training.rounds import Rounds, parted


def as_one_gradient(observation: Observation) -> Observation:
    """The observation as if its update were one gradient at the model that was sent: -delta / multiplier.

    What is shared in small steps comes near to that; how far off it is, the residual tells. An update that
    is a gradient is returned as it is. Of an unknown number of steps, only the direction is told.
    """
    training = observation.training
    if training.kind == "gradient":
        return observation
    scale = multiplier(observation)
    update = Update({name: -t / scale for name, t in observation.update.tensors.items()})
    known = observation.knowledge
    # Noise and bounds are in the weight difference's units.
    knowledge = replace(known, defense=in_other_units(known.defense))
    single = replace(training, training=FedSGD()) if isinstance(training, Rounds) else FedSGD()
    return replace(observation, training=single, update=update, knowledge=knowledge)


def multiplier(observation: Observation) -> float:
    """Return the size of the update against a gradient that stays the same over all steps, or 1 if it is not told."""
    training = steps_of(observation)
    return 1.0 if training is None else training.multiplier(observation.knowledge.batch_size or 1)


def interpolated(observation: Observation, fraction: float) -> Observation:
    """As one gradient at the model share w_start + (1 - share) w_end (Zhu et al. 2023, section 4), in each round."""
    seen, tensors = as_one_gradient(observation), observation.update.tensors
    if not isinstance(seen.training, Rounds):
        return replace(seen, model=moved(observation.model, tensors, 1 - fraction))
    held = [observation.model, *seen.training.models]
    each = parted(tensors, list(trainable(observation.model)))
    first, *later = [moved(m, t, 1 - fraction) for m, t in zip(held, each, strict=True)]
    return replace(seen, model=first, training=replace(seen.training, models=tuple(later)))


def moved(model: nn.Module, tensors: Tensors, scale: float) -> nn.Module:
    """A copy of the model with scale times these tensors added to its parameters of their names."""
    after = copied(model)
    parameters = trainable(after)
    with torch.no_grad():
        for name, tensor in tensors.items():
            parameters[name] += scale * tensor
    return after
