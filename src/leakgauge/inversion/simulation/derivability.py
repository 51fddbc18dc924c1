"""Checks whether a user's model runs, and has the derivatives that a descent needs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from leakgauge.core import Observation, ProbeError, SingleGradient, Tensors, trainable, unit_shape
from leakgauge.federated.isolation.probing import probing, spread
from leakgauge.federated.layers.dropout import make_probes, tensor_like_inputs
from leakgauge.federated.training.fedsgd import stateless
from leakgauge.inversion.simulation import attention
from leakgauge.inversion.simulation.squared_error import with_elementary_squares


def unrunnable(observation: Observation) -> str | None:
    """Return why the model cannot be run on examples of the domain, or None if it can."""
    inputs = make_probes(observation, observation.batch_size)
    try:
        with probing(), torch.no_grad(), torch.random.fork_rng(devices=[]):
            stateless(observation.model, trainable(observation.model), inputs)
    except ProbeError as error:
        return str(error)
    return None


def underivable(observation: Observation, training: SingleGradient) -> str | None:
    """Return why `torch.func` cannot differentiate the model's gradient forward, or None if it can.

    Common reasons are a custom autograd function without `setup_context`, NumPy, and branches on
    values.
    """
    parameters = {name: p.detach() for name, p in trainable(observation.model).items()}
    unit = spread(
        unit_shape(observation.domain), observation.batch_size, tensor_like_inputs(observation)
    )

    def gradient(unit: Tensor) -> Tensors:
        def scalar(parameters: Tensors) -> Tensor:
            inputs = observation.domain.from_unit(unit)
            targets = observation.knowledge.labels
            if targets is None:
                return training.scalar(observation.model, _any, parameters, inputs, unit)
            loss = with_elementary_squares(observation.loss)
            return training.scalar(observation.model, loss, parameters, inputs, targets)

        found: Tensors = torch.func.grad(scalar)(parameters)
        return found

    def moved(direction: Tensor) -> Any:
        return torch.func.jvp(gradient, (unit,), (direction,))[1]

    try:
        # The search also runs it with attention written out and without random draws.
        with probing("second order"), attention.written_out(), torch.random.fork_rng(devices=[]):
            torch.func.vmap(moved)(torch.stack([unit, unit]))
    except ProbeError as error:
        return str(error)
    return None


def _any(outputs: Any, targets: Tensor) -> Tensor:
    """Return a scalar that depends on every output, whatever their structure."""
    tensors = [t for t in tree_leaves(outputs) if isinstance(t, Tensor) and t.is_floating_point()]
    return torch.stack([t.square().mean().to(targets) for t in tensors]).sum()
