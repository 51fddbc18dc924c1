"""The input of a convolution below a max pool, given the places of the maxima or their probabilities.

See `pools.py` for the derivation.

References:
    Ours. We know of no publication.
"""

from __future__ import annotations

import torch
from torch import Tensor

from leakgauge.analytic.convolutions.equations import GradientOf, OutputOf, from_columns, to_columns
from leakgauge.analytic.convolutions.inputs import Solved, solve_input
from leakgauge.analytic.convolutions.max_pool import Pooled
from leakgauge.core import Inapplicable

REWEIGHTED = 3
"""Number of times that equations with wrong places are told by their misfit, in one alternation."""
ITERATIONS = 30
"""Largest number of conjugate gradient iterations of one alternation."""


def fit_inputs(pooled: Pooled, inputs: Tensor, error: Tensor, places: Tensor) -> Tensor:
    """Return the inputs (B, C, N) that fit the gradient and the outputs, given the places."""
    geometry, batch = pooled.geometry, len(inputs)
    everything = torch.ones(batch, len(pooled.weight), geometry.positions, dtype=torch.bool)
    full = pooled.spread(places * pooled.sent[..., None])
    gradient = GradientOf(geometry, pooled.dweight, full, everything, ~everything)
    matrix = gradient.matrix()
    size = pooled.weight.square().sum((1, 2))[:, None]
    trust = places.square() * (10 * pooled.shown / (error * size))[..., None]
    prior = error
    found = inputs
    for _ in range(REWEIGHTED):
        # A row or an output with a wrong place fits badly, and counts little.
        gap = gradient.right - matrix @ to_columns(found)
        left = gap.square().reshape(-1, geometry.taps * gap.shape[1]).mean(1)
        left = left + 1e-14 * gradient.right.square().mean()
        weight = (1 / left).repeat_interleave(geometry.taps)
        seen = pooled.outputs(found)
        padded = torch.nn.functional.pad(seen, (0, 1))[..., pooled.windows]
        off = (padded - pooled.aims[..., None]).square() / (error * size)[..., None]
        robust = trust / (1 + off)
        total = pooled.spread(robust)
        aims = pooled.spread(robust * pooled.aims[..., None])
        gram = matrix.T @ (matrix * weight[:, None])
        right = from_columns(matrix.T @ (gap * weight[:, None]), batch)
        right = right + (inputs - found) / prior
        if not pooled.ample:
            right = right + pooled.back(aims - seen * total)
        change = _solve_normal(pooled, gram, total, 1 / prior, right)
        found = found + change
        found = found.clamp_min(0) if pooled.positive else found
    return found


def _solve_normal(
    pooled: Pooled, gram: Tensor, total: Tensor, prior: Tensor, right: Tensor
) -> Tensor:
    """Return the change (B, C, N) of the inputs, by conjugate gradients.

    Args:
        pooled: The convolution.
        gram: The gradient's normal matrix (B N, B N), for each channel.
        total: Weights (B, O, P) of the outputs.
        prior: Weights (B, 1, 1) of the previous input.
        right: The right side (B, C, N).
    """
    batch, channels, places = right.shape
    if pooled.ample:
        diagonal = torch.diag(prior.flatten().repeat_interleave(places))
        factor = torch.linalg.cholesky(gram + diagonal)
        return from_columns(torch.cholesky_solve(to_columns(right), factor), batch)
    size = pooled.weight.square().sum((1, 2))[:, None]
    typical = (total * size).sum((1, 2)) / (channels * places) + prior.flatten()
    inverse = torch.cholesky_inverse(
        torch.linalg.cholesky(gram + torch.diag(typical.repeat_interleave(places)))
    )

    def normal(change: Tensor) -> Tensor:
        by_gradient = from_columns(gram @ to_columns(change), batch)
        return by_gradient + pooled.back(pooled.outputs(change) * total) + change * prior

    def precondition(rest: Tensor) -> Tensor:
        return from_columns(inverse @ to_columns(rest), batch)

    change, rest = torch.zeros_like(right), right
    way = near = precondition(rest)
    rho = first = float((rest * near).sum())
    for _ in range(ITERATIONS):
        if rho <= 1e-8 * first:
            break
        image = normal(way)
        step = rho / float((way * image).sum())
        change, rest = change + step * way, rest - step * image
        near = precondition(rest)
        rho, before = float((rest * near).sum()), rho
        way = near + (rho / before) * way
    return change


def solve_for_places(pooled: Pooled, whole: Tensor) -> Solved | Inapplicable:
    """Return the inputs for whole places (B, O, W)."""
    hot = torch.nn.functional.one_hot(whole, pooled.windows.shape[1]).to(pooled.value)
    full = pooled.spread(hot * pooled.sent[..., None])
    everything = torch.ones_like(full, dtype=torch.bool)
    gradient = GradientOf(pooled.geometry, pooled.dweight, full, everything, ~everything)
    marks = hot * pooled.shown[..., None]
    count = pooled.spread(marks)
    output = pooled.spread(marks * pooled.aims[..., None]) / count.clamp_min(1)
    return solve_input(
        [gradient], None, [OutputOf(pooled.geometry, pooled.weight, output, count > 0)]
    )
