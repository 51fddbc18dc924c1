"""The minimum of an objective for each example of a batch alone.

L-BFGS keeps a history for each example, so that they converge independently of each other.

References:
    Ours. L-BFGS is that of Nocedal, Wright. Numerical Optimization, algorithm 7.4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

HISTORY = 30
"""Number of pairs that L-BFGS keeps."""
ARMIJO = 1e-4
"""Fraction of the expected decrease that a step must reach."""
HALVINGS = 12
"""Largest number of times that a step is halved."""


@dataclass(frozen=True, eq=False)
class Minimum:
    """The end of a descent.

    Args:
        inputs: (B, *shape).
        values: Objective (B,) of each example.
        evaluations: Number of evaluations of the whole batch.
    """

    inputs: Tensor
    values: Tensor
    evaluations: int


def minimize_each(
    objective: Callable[[Tensor], Tensor],
    start: Tensor,
    *,
    steps: int,
) -> Minimum:
    """Return a minimum of the objective for each example of a batch.

    Args:
        objective: Map from inputs `(B, *shape)` to values (B,). Each depends on one example alone.
        start: Inputs `(B, *shape)` to start from.
        steps: Largest number of steps.
    """
    shape, x = start.shape, start.flatten(1)
    values, slope = _value_and_slope(objective, x.reshape(shape))
    pairs: list[tuple[Tensor, Tensor]] = []
    evaluations = 1
    for _ in range(steps):
        way = _direction(slope, pairs)
        along = (way * slope).sum(1)
        way = torch.where((along < 0)[:, None], way, -slope)
        along = (way * slope).sum(1)
        size = torch.ones_like(values)
        if not pairs:
            size = (0.1 * x.shape[1] ** 0.5 / way.norm(dim=1).clamp_min(1e-30)).clamp_max(1e6)
        for _ in range(HALVINGS):
            trial = x + size[:, None] * way
            after, turn = _value_and_slope(objective, trial.reshape(shape))
            evaluations += 1
            good = after <= values + ARMIJO * size * along
            if bool(good.all()):
                break
            size = torch.where(good, size, size / 2)
        moved = good[:, None]
        pairs.append((torch.where(moved, trial - x, 0), torch.where(moved, turn - slope, 0)))
        del pairs[:-HISTORY]
        x, slope = torch.where(moved, trial, x), torch.where(moved, turn, slope)
        values = torch.where(good, after, values)
        if bool((values <= 0).all()) or not bool(good.any()):
            break
    return Minimum(x.reshape(shape), values, evaluations)


def _value_and_slope(objective: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values (B,) of an objective at inputs `(B, *shape)`, and their gradients (B, N)."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        values = objective(x)
        (slope,) = torch.autograd.grad(values.sum(), [x])
    return values.detach(), slope.flatten(1)


def _direction(slope: Tensor, pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the direction (B, N) of L-BFGS for each example (two loops)."""
    rest, weights = slope.clone(), []
    scale = torch.ones(len(slope), 1).to(slope)
    tiny = torch.finfo(slope.dtype).tiny
    for s, y in reversed(pairs):
        inner = (s * y).sum(1, keepdim=True)
        rho = torch.where(inner > 0, 1 / inner.clamp_min(tiny), 0)
        weight = rho * (s * rest).sum(1, keepdim=True)
        rest = rest - weight * y
        weights.append((weight, rho))
    if pairs:
        s, y = pairs[-1]
        inner, square = (s * y).sum(1, keepdim=True), y.square().sum(1, keepdim=True)
        scale = torch.where((inner > 0) & (square > 0), inner / square.clamp_min(tiny), scale)
    found = scale * rest
    for (s, y), (weight, rho) in zip(pairs, reversed(weights), strict=True):
        along = rho * (y * found).sum(1, keepdim=True)
        found = found + (weight - along) * s
    return -found
