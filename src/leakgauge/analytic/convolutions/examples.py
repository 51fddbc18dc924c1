"""The inputs of single examples, from the span of a batch's inputs behind a ReLU.

Behind a ReLU, inputs are nonnegative and have many exact zeros. Two steps find them:

1. A linear program with a random cost ends in an extreme ray of the cone of nonnegative
   combinations. For small batches, the rays are the examples.
2. From there, weighted least squares finds the combination with the most zeros. A generic
   combination of B examples has fewer than B zeros, so thousands of zeros certify an example.

References:
    Ours. We know of no publication.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linprog
from torch import Tensor

from leakgauge.analytic.convolutions.update_error import least_sure
from leakgauge.core.pulse import Beat, quiet

SLACKS = (1e-5, 1e-4, 1e-3, 1e-2)
"""Negative values, relative to the root mean square, that a linear program allows. The first feasible one counts."""
WIDTHS = (3e-1, 1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6)
"""Sizes, relative to the root mean square, below which a value counts as nearly 0, stage by stage."""
FIRST = (1e-4, 3e-3, 3e-2, 3e-1)
"""Largest sizes of the stages, in the order in which they are tried."""
CUTS = 12
"""Largest number of times that violated rows are added to a linear program."""
LOWEST = 3e-8
"""Least error of an example's values that is assumed, relative to its largest. It is about that of float32."""
LEAST = 0.05
"""Least fraction of zeros of an example, beyond those that chance explains."""
TELLS = 30.0
"""Size of a place in the span, in units of the width of a zero, from which on its zero tells something."""
BESIDE = 2.0
"""Number of zeros by chance, for each value just above their width."""
SAME = 1e-4
"""Squared sine of the angle below which two results are the same example."""
WRONG = (1e-4, 1e-3, 1e-2)
"""Largest negative value of an example, relative to its largest, in each third of the attempts."""
DEVIATIONS = 5.0
"""Largest random error of an entry, in units of the root mean square error."""
PATIENCE = 6
"""Number of attempts for each example."""


@dataclass(frozen=True, eq=False)
class Examples:
    """Inputs of single examples, each up to its scale.

    Args:
        values: (n, C, N), nonnegative, each of norm 1.
        zeros: (n,), fraction of exact zeros of each, among the places that any example uses.
        excursion: (n,), largest negative value before it was set to 0, relative to the largest
            value. Values below about three times this one are not distinguished from 0.
    """

    values: Tensor
    zeros: Tensor
    excursion: Tensor


def separate(
    basis: Tensor,
    count: int,
    *,
    generator: torch.Generator,
    error: float = 0.0,
    beat: Beat = quiet,
) -> Examples:
    """Return the inputs of single examples.

    Args:
        basis: Orthonormal rows (n, C, N) that span the inputs.
        count: Number of examples to find. Fewer are returned if no more are found.
        generator: Source of the costs of the linear programs.
        beat: Called in each attempt.
        error: Root mean square error of the span's entries, relative to theirs. 0 means rounding.
    """
    flat = basis.flatten(1)
    live = flat.abs().amax(0) > 1e-6 * flat.abs().max()
    cone = _Cone(flat[:, live], error)
    found = flat.new_zeros(0, len(flat))
    wrongs = [max(wrong, DEVIATIONS * error) for wrong in WRONG]
    for wrong, attempt in itertools.product(wrongs, range(PATIENCE * count // len(WRONG))):
        if len(found) == count:
            break
        beat()
        start = cone.ray(found, generator) if attempt % 3 < 2 or not len(found) else None
        if start is None:
            start = cone.step_out(found, generator)
        mixing = cone.example_near(start, wrong)
        if mixing is not None and _is_new(mixing, found):
            found = torch.cat([found, mixing[None]])
    values = found @ flat
    peak = values.amax(1).clamp_min(torch.finfo(values.dtype).tiny)
    # Negative values alone show too little of the error if it happens to be positive.
    excursion = (-values.amin(1) / peak).clamp_min(LOWEST)
    least = (3 * excursion + 1e-9) * peak
    if error:  # The largest of many random errors is far above most of them.
        least = least.minimum(least_sure(error) * values.square().mean(1).sqrt())
    near = values[:, live].abs() < least[:, None]
    # Exact zeros come out as small values of both signs.
    values = torch.where(values < least[:, None], 0, values)
    values = values / values.norm(dim=1, keepdim=True)
    zeros = near.double().mean(1)
    return Examples(values.reshape(len(found), *basis.shape[1:]), zeros, excursion)


def one_of(basis: Tensor, error: float) -> Examples:
    """Return the nonnegative input nearest to a basis (1, C, N) of a batch of one.

    Args:
        basis: The basis, of norm 1.
        error: Root mean square error of its entries, relative to theirs.
    """
    values = basis * torch.sign(basis.sum())
    size = values.square().mean().sqrt()
    excursion = (-values.amin()).clamp_min(0) / values.amax()
    values = torch.where(values < least_sure(error) * size, 0, values)
    zeros = (values == 0).double().mean()
    return Examples(values / values.norm(), zeros[None], excursion[None])


def _is_new(mixing: Tensor, found: Tensor) -> bool:
    """Return whether a unit vector (n,) differs from all of (m, n)."""
    return not len(found) or float((found @ mixing).square().max()) < 1 - SAME


class _Cone:
    """The nonnegative combinations of a span. Rows of `values` (L, n) are orthonormal columns times root L."""

    def __init__(self, flat: Tensor, error: float = 0.0) -> None:
        self.values = flat.T * flat.shape[1] ** 0.5
        self.sizes = self.values.norm(dim=1)
        self.error = error
        self.slacks = [s for s in (*SLACKS, DEVIATIONS * error) if s >= error]
        self.widths = [width for width in WIDTHS if width >= error] or [error]
        self.rows: NDArray[np.float64] = self.values.cpu().numpy()

    def ray(self, found: Tensor, generator: torch.Generator) -> Tensor | None:
        """Return the unit mixing (n,) of an extreme ray, or None if the linear program has no solution.

        Its cost is orthogonal to the mixings found before.
        """
        width = self.values.shape[1]
        cost = torch.randn(width, generator=generator, dtype=torch.float64)
        if len(found):
            known = torch.linalg.qr(found.cpu().T)[0]
            cost = cost - known @ (known.T @ cost)
        first = torch.randperm(len(self.rows), generator=generator)[: 60 * width].numpy()
        for slack in self.slacks:
            mixing = self._program(cost.numpy(), np.unique(first), slack)
            if mixing is not None:
                return torch.from_numpy(mixing / np.linalg.norm(mixing)).to(self.values)
        return None

    def _program(
        self, cost: NDArray[np.float64], active: NDArray[np.int64], slack: float
    ) -> NDArray[np.float64] | None:
        """Return the solution of a linear program. Rows that it violates are added until there are few."""
        width, mean = self.rows.shape[1], self.rows.mean(0)
        mixing = None
        for _ in range(CUTS):
            answer = linprog(
                cost,
                A_ub=-self.rows[active],
                b_ub=np.full(len(active), slack),
                A_eq=mean[None],
                b_eq=[1.0],
                bounds=[(-100.0, 100.0)] * width,
                method="highs-ds",
            )
            if answer.x is None:
                return None
            mixing = answer.x
            values = self.rows @ mixing
            bad = np.flatnonzero(values < -1.01 * slack)
            if not len(bad):
                break
            worst = bad[np.argsort(values[bad])[: 50 * width]]
            active = np.union1d(active, worst)
        return mixing

    def step_out(self, found: Tensor, generator: torch.Generator) -> Tensor:
        """Return the mean of the mixings found before plus a random step out of their span."""
        width = self.values.shape[1]
        out = torch.randn(width, generator=generator, dtype=torch.float64).to(self.values)
        base = self.values.mean(0)
        if len(found):
            known = torch.linalg.qr(found.T)[0]
            out = out - known @ (known.T @ out)
            base = found.mean(0)
        size = 0.05 + 0.95 * float(torch.rand(1, generator=generator))
        mixing: Tensor = base / base.norm() + size * out / out.norm()
        return mixing

    def example_near(self, start: Tensor, wrong: float) -> Tensor | None:
        """Return the mixing (n,) of an example near a start, or None.

        A start that is nearly right needs small widths only. Large widths lead away from it.
        """
        for first in FIRST:
            mixing = self.sparsest(
                start, [width for width in self.widths if width <= first] or self.widths[-1:]
            )
            if self.is_example(mixing, wrong):
                return mixing
        return None

    def sparsest(self, mixing: Tensor, widths: Sequence[float]) -> Tensor:
        """Return the unit mixing (n,) with the most zeros near a start, of positive sum."""
        for width in widths:
            for _ in range(3):
                values = self.values @ mixing
                values = values / values.square().mean().sqrt()
                weights = 1 / (values.square() + width**2)
                gram = self.values.T @ (weights[:, None] * self.values)
                mixing = torch.linalg.solve(gram, mixing)
                mixing = mixing / mixing.norm()
        return mixing * torch.sign((self.values @ mixing).sum())

    def is_example(self, mixing: Tensor, wrong: float) -> bool:
        """Return whether a combination is nonnegative up to a small excursion, and has many zeros."""
        values = self.values @ mixing
        peak, low = float(values.max()), float(-values.min())
        if self.error:
            peak = float(values.square().mean().sqrt())  # Errors are relative to this size.
        if self.values.shape[1] == 1:
            return low < wrong * peak
        width, size = 3 * low + 1e-9 * peak, values.abs()
        known, count = len(values), self.values.shape[1]
        if self.error:
            many = float((size < width).sum()) > max(LEAST * known, 4 * count)
        else:
            many = self._zeros_beyond_chance(size, width) > max(LEAST * known, 3 * count)
        return low < wrong * peak and many

    def _zeros_beyond_chance(self, size: Tensor, width: float) -> float:
        """Return the number of zeros of a combination that chance does not explain.

        Any extreme ray of the cone has n - 1 zeros. Some values are small by chance, as the number of
        those just above the width shows. Places that are nearly 0 in the whole span tell nothing.

        Args:
            size: Absolute values (L,) of the combination.
            width: Size below which a value counts as 0.
        """
        tells = self.sizes > TELLS * width
        zeros = int((tells & (size < width)).sum())
        beside = int((tells & (size >= width) & (size < 2 * width)).sum())
        return zeros - BESIDE * beside - (len(self.values[0]) - 1)
