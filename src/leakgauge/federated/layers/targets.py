"""A check of the targets that a user's loss accepts, by calling the loss."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from leakgauge.core import Observation, ProbeError, trainable
from leakgauge.federated.isolation.probing import probing
from leakgauge.federated.isolation.untouched import value_of
from leakgauge.federated.layers.dropout import make_probes
from leakgauge.federated.training.fedsgd import check_differentiable, check_scalar, stateless

BROADCAST = "Using a target size"
"""Start of PyTorch's warning that a loss broadcasts targets of another shape over the outputs."""


def refused_targets(observation: Observation, targets: Tensor) -> str | None:
    """Return why the loss does not accept `targets` (B,) or (B, K), or None if it accepts them."""
    inputs = make_probes(observation, len(targets))
    try:
        with probing("the loss"), warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.filterwarnings("error", message=BROADCAST)
            output = stateless(observation.model, trainable(observation.model), inputs)
            value = value_of(observation.loss, output, targets)
            check_scalar(value)
            check_differentiable(value)
    except ProbeError as error:
        return f"targets of shape {tuple(targets.shape)} do not fit: {error}"
    return None


def unlabeled(observation: Observation) -> str | None:
    """Return why the loss does not accept class labels (B,), or None if it accepts them."""
    if observation.classes is None:
        return "needs a loss over classes"
    count = observation.knowledge.batch_size or 2
    device = observation.update.like.device
    return refused_targets(observation, torch.zeros(count, dtype=torch.long, device=device))
