"""Approximations of a weight difference by one gradient at one model."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from leakgauge.core import Observation, Tensors, Update, deep_copy, drop_update_units, trainable
from leakgauge.federated.training.calibration import steps_of
from leakgauge.federated.training.fedsgd import FedSGD
from leakgauge.federated.training.rounds import Rounds, split_rounds


def as_one_gradient(observation: Observation) -> Observation:
    """Return the observation with its weight difference as one gradient, `-delta / multiplier`.

    The gradient is that at the server's model. For small local steps, this is a good approximation.
    The residual of a reconstruction shows its error. An observation of a gradient is returned
    unchanged. If the number of steps is unknown, only the direction of the gradient is right.
    """
    training = observation.training
    if training.kind == "gradient":
        return observation
    scale = multiplier(observation)
    update = Update({name: -t / scale for name, t in observation.update.tensors.items()})
    known = observation.knowledge
    # Noise and bounds of the defense are stated in the units of the weight difference.
    knowledge = replace(known, defense=drop_update_units(known.defense))
    single = replace(training, training=FedSGD()) if isinstance(training, Rounds) else FedSGD()
    return replace(observation, training=single, update=update, knowledge=knowledge)


def multiplier(observation: Observation) -> float:
    """Return the size of the update relative to a constant gradient, or 1 if it is unknown."""
    training = steps_of(observation)
    return 1.0 if training is None else training.multiplier(observation.knowledge.batch_size or 1)


def interpolate(observation: Observation, fraction: float) -> Observation:
    """Return the observation as one gradient at an interpolated model, in each round.

    The model is `fraction * w_start + (1 - fraction) * w_end`, as in section 4 of Zhu, Yao,
    Blaschko. Surrogate Model Extension (SME): A Fast and Accurate Weight Update Attack on Federated
    Learning. ICML 2023. arXiv:2306.00127.
    """
    seen, tensors = as_one_gradient(observation), observation.update.tensors
    if not isinstance(seen.training, Rounds):
        return replace(seen, model=shift_model(observation.model, tensors, 1 - fraction))
    held = [observation.model, *seen.training.models]
    each = split_rounds(tensors, list(trainable(observation.model)))
    first, *later = [shift_model(m, t, 1 - fraction) for m, t in zip(held, each, strict=True)]
    return replace(seen, model=first, training=replace(seen.training, models=tuple(later)))


def shift_model(model: nn.Module, tensors: Tensors, scale: float) -> nn.Module:
    """Return a copy of the model with `scale * tensors` added to the parameters of these names."""
    after = deep_copy(model)
    parameters = trainable(after)
    with torch.no_grad():
        for name, tensor in tensors.items():
            parameters[name] += scale * tensor
    return after
