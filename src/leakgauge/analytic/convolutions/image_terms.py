"""The terms that tell the images: the earliest activations that a descent read, and open equations."""

from __future__ import annotations

import math

import torch
from torch import Tensor, fx

from leakgauge.analytic.convolutions.batch_norm import mixes
from leakgauge.analytic.convolutions.descent import Descent
from leakgauge.analytic.convolutions.determined_parts import determined_parts
from leakgauge.analytic.convolutions.noisy_terms import Weighted, weighted_terms
from leakgauge.analytic.convolutions.problem import Beginning, Problem
from leakgauge.analytic.convolutions.propagation import Partial
from leakgauge.analytic.convolutions.terms import Term
from leakgauge.core import Observation, unit_shape

LAYERS = 2
"""Number of layers, the earliest ones that were read, whose activations the image must have."""
UNLIKE = 1e-8
"""Least squared distance of an example's activations from those of a gray image, relative to their square."""
AMPLE = 2.0
"""Known values above 0, for each value of the image, from which on no open equations are needed."""


def earliest(problem: Problem, descent: Descent) -> list[fx.Node]:
    """Return the nodes of the earliest activations that were read."""
    network = problem.network
    order = {node: i for i, node in enumerate(network.graph.nodes)}
    known = (node for node in descent.known.values if node in network.varying)
    return sorted(known, key=order.__getitem__)[:LAYERS]


def unsure_terms(
    observation: Observation, problem: Problem, descent: Descent, beginning: Beginning
) -> Weighted:
    """Return the terms of the earliest activations that were read, each by its certainty."""
    nodes = earliest(problem, descent)
    unit = torch.full((1, *unit_shape(observation.domain)), 0.5, dtype=torch.float64)
    gray, white = map(observation.domain.from_unit, (unit, 2 * unit))
    return weighted_terms(
        problem.network,
        {node: descent.known.values[node] for node in nodes},
        {node: descent.unsure.get(node, beginning.error) for node in nodes},
        gray,
        2 * float((white - gray).abs().mean()),
    )


def terms_of(observation: Observation, problem: Problem, descent: Descent) -> list[Term]:
    """Return the terms that tell the images: the earliest activations that were read, and open equations."""
    network, known = problem.network, descent.known
    nodes = earliest(problem, descent)
    domain = observation.domain
    gray = torch.full((1, *unit_shape(domain)), 0.5, dtype=torch.float64)
    wanted = [*nodes, *descent.open]
    with torch.no_grad():
        plain = network.evaluate(wanted, {network.entry: domain.from_unit(gray)})
    if mixes(network):
        # A plain batch has no deviation, so BatchNorm in train mode would only show rounding errors.
        plain = {node: torch.zeros_like(value) for node, value in plain.items()}
    terms = []
    for node in nodes:
        value = known.values[node]
        gap = (value - plain[node]).square().flatten(1).sum(1)
        least = UNLIKE * value.square().flatten(1).sum(1)
        terms.append(Term(node, value, 1 / gap.maximum(least).clamp_min(1e-30)))
    shown = min((known.values[node].flatten(1) > 0).sum(1).min().item() for node in nodes)
    # The masks behind open equations may have wrong bits. So they help only where values are few.
    ample = shown >= AMPLE * math.prod(unit_shape(domain))
    for node, gradients in () if ample else descent.open.items():
        partial_value = known.partial(node)
        if partial_value is not None and bool(partial_value.known.any()):
            terms.append(_term_of_entries(node, partial_value, plain[node]))
        if mixes(network):
            continue
        if problem.count > 1:
            parts = determined_parts(gradients)
            if parts is not None:
                gap = parts[1] - parts[0] @ plain[node].flatten(2).mT
                size = gap.square().flatten(1).sum(1).clamp_min(1e-30)
                terms.append(Term(node, parts[1], 1 / size, parts[0]))
            continue
        for gradient in gradients:
            matrix, right = gradient.matrix(), gradient.right
            gap = right - matrix @ plain[node].flatten(2)[0].T
            terms.append(Term(node, right, 1 / gap.square().sum()[None], matrix))
    return terms


def _term_of_entries(node: fx.Node, entries: Partial, plain: Tensor) -> Term:
    """Return the term of the known entries of a node, given its value (1, ...) for a gray image."""
    marks = entries.known.to(entries.value)
    gap = (((entries.value - plain) ** 2) * marks).flatten(1).sum(1)
    shape = (-1, *[1] * (marks.ndim - 1))
    return Term(node, entries.value, marks / gap.clamp_min(1e-30).reshape(shape))
