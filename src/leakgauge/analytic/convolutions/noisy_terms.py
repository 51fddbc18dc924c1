"""Terms that tell the image from activations with known errors, and a prior of known strength.

Under Gaussian errors of the activations and of the image's second differences, the most likely image
minimizes `sum (u(x) - a)^2 / (2 s^2) + sum (D x)^2 / (2 r)`. Here s is the error of an activation, and
r the mean square of second differences in photographs.

References:
    Ours.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from leakgauge.analytic.convolutions.network import Network
from leakgauge.analytic.convolutions.terms import Term

ROUGHNESS = 0.02
"""Mean square of the second differences along each axis, in photographs of 32 pixels in unit coordinates."""


@dataclass(frozen=True, eq=False)
class Weighted:
    """Terms of an objective that is about 1 for a gray image.

    Args:
        terms: The terms.
        floor: The objective of an image whose activations are right up to their errors.
    """

    terms: list[Term]
    floor: float


def weighted_terms(
    network: Network,
    values: Mapping[fx.Node, Tensor],
    errors: Mapping[fx.Node, float],
    gray: Tensor,
    span: float,
) -> Weighted:
    """Return the terms of known activations, each by its certainty, and the prior.

    Args:
        network: The network.
        values: Known values `(B, ...)` of nodes.
        errors: Relative error of each node.
        gray: The network's input for a gray image `(1, C, ...)`.
        span: Width of the input's range, in the network's units.
    """
    with torch.no_grad():
        plain = network.evaluate(list(values), {network.entry: gray})
    weights, expected, total = {}, 0.0, 0.0
    for node, value in values.items():
        flat = value.flatten(1)
        square = (errors[node] * flat.norm(dim=1)) ** 2 / flat.shape[1]
        weights[node] = 0.5 / square.clamp_min(1e-30)
        expected += 0.5 * flat.shape[1]
        total += float(((value - plain[node]).square().flatten(1).sum(1) * weights[node]).mean())
    terms = [Term(node, value, weights[node] / total) for node, value in values.items()]
    matrix = second_differences(gray.shape[2:])
    weight = torch.full((1,), 0.5 / (ROUGHNESS * span**2 * total), dtype=torch.float64)
    aim = torch.zeros(len(matrix), gray.shape[1], dtype=torch.float64)
    return Weighted([*terms, Term(network.entry, aim, weight, matrix)], expected / total)


def second_differences(size: tuple[int, ...]) -> Tensor:
    """Return the matrix (rows, N) of second differences along each axis of an image of this size."""
    places = torch.arange(math.prod(size)).reshape(size)
    rows: list[Tensor] = []
    for axis, length in enumerate(size):
        if length < 3:
            continue
        triples = [places.narrow(axis, start, length - 2).flatten() for start in range(3)]
        block = torch.zeros(len(triples[0]), math.prod(size), dtype=torch.float64)
        index = torch.arange(len(block))
        for places_of, factor in itertools.zip_longest(triples, (1.0, -2.0, 1.0)):
            block[index, places_of] = factor
        rows.append(block)
    return torch.cat(rows) if rows else torch.zeros(0, math.prod(size), dtype=torch.float64)
