"""The problem that an observation poses: its gradients and its network in float64, and the errors of its update."""

from __future__ import annotations

from statistics import median

import torch
from torch import nn

from leakgauge.analytic.convolutions.batch_norm import mixes
from leakgauge.analytic.convolutions.problem import Problem, features_node
from leakgauge.analytic.convolutions.tracing import trace
from leakgauge.analytic.convolutions.update_error import EXACT, UpdateError, update_error
from leakgauge.analytic.last_layer import HeadGradient, last_layer, rounding, unit_ratio
from leakgauge.core import Inapplicable, Observation, unit_shape
from leakgauge.federated.isolation.probing import spread


def read_problem(observation: Observation) -> Problem | Inapplicable:
    """Return the gradients of an observation, or the reason why the attack cannot use them."""
    head = last_layer(observation)
    return head if isinstance(head, Inapplicable) else problem_of(observation, head)


def not_finite(observation: Observation) -> str | None:
    """Return the name of a tensor of the update that holds NaN or infinity, or None."""
    tensors = observation.update.tensors.items()
    return next((name for name, t in tensors if not bool(t.isfinite().all())), None)


def draws_at_random(observation: Observation) -> str | None:
    """Return the name of a layer that draws random numbers in each pass, or None."""
    name: str
    for name, layer in observation.model.named_modules():
        dropout = isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0
        if layer.training and (dropout or isinstance(layer, nn.RReLU)):
            return name
        if isinstance(layer, nn.FractionalMaxPool2d | nn.FractionalMaxPool3d):
            return name
    return None


def problem_of(observation: Observation, head: HeadGradient) -> Problem | Inapplicable:
    """Return the gradients and the network in float64, or the reason why the attack cannot use them."""
    network = trace(observation.model, observation.domain)
    if isinstance(network, Inapplicable):
        return network
    domain = observation.domain
    probe = domain.from_unit(spread(unit_shape(domain), 2, torch.zeros((), dtype=torch.float64)))
    if not network.computes(observation.model, probe, together=mixes(network)):
        return Inapplicable(
            "the model mixes the examples of a batch, or its graph holds for one batch size alone"
        )
    if not network.convolutions:
        return Inapplicable(
            "the model has no convolution with padding by zeros whose weight is a parameter"
        )
    features = features_node(network, head.head.weight)
    if features is None:
        return Inapplicable(f"the last layer, {head.name!r}, is not a linear layer of one vector")
    tensors = observation.update.map(lambda t: t.detach().double().cpu()).tensors
    unit = unit_ratio(head.layer, head.shared) * abs(head.head.scale)
    return Problem(
        network=network,
        gradients={name: t * unit for name, t in tensors.items()},
        head=head,
        features=features,
        count=observation.batch_size,
        error=rounding(head.shared).shared,
        unit=unit,
    )


def errors_of(observation: Observation, problem: Problem) -> UpdateError | None:
    """Return the errors of the gradients, or None if they are rounded to float32."""
    convolutions = problem.network.convolutions
    noise = observation.noise if observation.training.kind == "gradient" else None
    errors = update_error(
        problem.gradients,
        {c.name: problem.count * c.geometry.positions for c in convolutions},
        noise=None if noise is None else noise.std * problem.unit,
        rounding=problem.error,
    )
    if mixes(problem.network):
        return None
    named = [errors.relative([c.name]) for c in convolutions if c.name in errors.entries]
    head = errors.relative([problem.head.head.weight])
    return errors if named and max(median(named), head) > EXACT else None
