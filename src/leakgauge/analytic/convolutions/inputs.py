"""The input of a convolution from known signals: linear least squares on three groups of equations.

Of a layer with input u, output z, signal Delta at z, and gradient dW of its weight:

- *gradient*: `sum_bp Delta[b, o, p] u[b, c, p + k] = dW[o, c, k]`. All channels c share one matrix;
- *entries*: `u = value`, where a shortcut shows it;
- *output*: `conv(u) = z`, where z is known, such as in front of a ReLU with a positive output.

Gradient equations come first. The others decide the directions that those leave open.

References:
    Ours. The first group is that of Zhu, Blaschko. R-GAP: Recursive Gradient Attack on Privacy. ICLR
    2021. arXiv:2010.07733, here for a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from leakgauge.analytic.convolutions.equations import GradientOf, OutputOf, from_columns, to_columns
from leakgauge.analytic.convolutions.lost_constants import Gauge
from leakgauge.analytic.convolutions.open_directions import count_equations, fill_open, too_few
from leakgauge.core import Inapplicable
from leakgauge.core.pulse import Beat, quiet

FAINT = 3e-3
"""Singular values below this fraction of the largest give way to entries and outputs that decide their directions.

A gradient's errors grow by its inverse. Entries and outputs are as exact as the layers above.
"""
WEAK = 3e-5
"""Singular values of the gradient equations below this fraction of the largest do not count."""
LOOSER = 10.0
"""Factor by which the errors of entries and outputs may exceed those of gradient equations."""


@dataclass(frozen=True, eq=False)
class Solved:
    """The input of a convolution.

    Args:
        inputs: (B, C, N).
        misfit: Relative misfit of the gradient equations. Where entries and outputs were needed, a
            tenth of theirs, if it is larger.
        equations: Number of gradient equations for each channel.
        unknowns: Number of unknowns for each channel.
        gap: What the gradient equations leave unexplained (rows, C).
        leverage: Orthonormal columns (rows, rank) of the gradient equations.
        coupled: Whether entries or outputs were needed.
        deviation: Expected error (B, N) of the entries at each place, from the misfit and the equations.
    """

    inputs: Tensor
    misfit: float
    equations: int
    unknowns: int
    gap: Tensor
    leverage: Tensor
    coupled: bool
    deviation: Tensor

    @property
    def error(self) -> float:
        """Expected relative error of the inputs."""
        square = self.deviation.square().sum() * self.inputs.shape[1]
        return float(square.sqrt() / self.inputs.norm())


def solve_input(
    gradients: Sequence[GradientOf],
    entries: tuple[Tensor, Tensor] | None = None,
    outputs: Sequence[OutputOf] = (),
    beat: Beat = quiet,
    *,
    gauges: Sequence[Gauge] = (),
    rough: bool = False,
) -> Solved | Inapplicable:
    """Return the input of convolutions that share it, or the reason why it is not determined.

    Args:
        gradients: The gradients, at least one.
        entries: Known entries: values and marks, both (B, C, N).
        outputs: Known outputs.
        beat: Called in each iteration on the open directions.
        gauges: Equations that fix what no gradient tells.
        rough: Whether directions that the gradients leave open are set to 0.
    """
    batch = gradients[0].full.shape[0]
    rows = torch.cat([*(g.matrix() for g in gradients), *(g.matrix() for g in gauges)])
    right = torch.cat([*(g.right for g in gradients), *(g.right for g in gauges)])
    size = rows.norm(dim=1).square().mean().sqrt()
    if not float(size):
        return Inapplicable("the signal is 0")
    open_values = max(0, rows.shape[1] - rows.shape[0]) * right.shape[1]
    if count_equations(entries, outputs) < open_values:
        return too_few(f"at least {open_values}", count_equations(entries, outputs))
    rows, right = rows / size, right / size
    ample = 0 if rough else count_equations(entries, outputs)
    found: Solved | Inapplicable = Inapplicable("nothing is known")
    for limit in (FAINT, WEAK):
        factor, weak = _factor(rows.T @ rows, limit)
        if limit == FAINT and (not weak.shape[1] or weak.shape[1] * right.shape[1] > ample / 2):
            continue

        def fill(inputs: Tensor, weak: Tensor = weak) -> tuple[Tensor, float] | Inapplicable:
            if rough or not weak.shape[1]:
                return inputs, 0.0
            return fill_open(inputs, weak, entries, outputs, beat)

        found = _solved(rows, right, factor, fill, batch=batch, size=float(size))
        if isinstance(found, Solved):
            return replace(found, coupled=bool(weak.shape[1]))
    return found


def _solved(
    rows: Tensor,
    right: Tensor,
    factor: Tensor,
    fill: Callable[[Tensor], tuple[Tensor, float] | Inapplicable],
    *,
    batch: int,
    size: float,
) -> Solved | Inapplicable:
    """Return the input from its equations.

    Args:
        rows: Matrix (rows, B N) of the gradient equations.
        right: Right side (rows, C).
        factor: F with `F F'` the inverse of their Gram matrix, in the directions that they decide.
        fill: Decides the other directions, and returns the inputs (B, C, N) and their misfit.
        batch: Batch size B.
        size: Factor of the equations.
    """

    def least_squares(aim: Tensor) -> Tensor:
        solution: Tensor = factor @ (factor.T @ (rows.T @ aim))
        return solution

    flat = least_squares(right)
    flat = flat + least_squares(right - rows @ flat)  # one step of refinement
    filled = fill(from_columns(flat, batch).contiguous())
    if isinstance(filled, Inapplicable):
        return filled
    inputs, disagreement = filled
    gap = right - rows @ to_columns(inputs)
    # The spread of least squares under errors as large as the gap shows.
    spare = max(1 - factor.shape[1] / len(rows), 1 / len(rows))
    each = gap.square().mean() / spare
    return Solved(
        inputs,
        max(float(gap.norm() / right.norm()), disagreement / LOOSER),
        len(rows),
        rows.shape[1],
        gap * size,
        rows @ factor,
        False,
        (each * factor.square().sum(1)).sqrt().reshape(batch, -1),
    )


def _factor(gram: Tensor, limit: float) -> tuple[Tensor, Tensor]:
    """Return F (n, r) with `F F'` the inverse of a Gram matrix, and its weak directions (n, n - r).

    Weak are those whose singular value is below this fraction of the largest.

    Without weak directions, the factorization of Cholesky is many times faster than eigenvectors.
    """
    lower, failed = torch.linalg.cholesky_ex(gram)
    if not int(failed):
        inverse = torch.linalg.solve_triangular(lower, torch.eye(len(gram)).to(gram), upper=False).T
        # The largest eigenvalue of the inverse, by power iterations, shows the weakest direction.
        vector = inverse @ torch.ones(len(gram)).to(gram)
        for _ in range(20):
            vector = inverse @ (inverse.T @ (vector / vector.norm()))
        if float(vector.norm() * gram.diagonal().max()) * limit**2 < 0.5:
            return inverse, gram[:, :0]
    values, vectors = torch.linalg.eigh(gram)
    strong = values > limit**2 * values[-1]
    return vectors[:, strong] * values[strong].rsqrt(), vectors[:, ~strong]
