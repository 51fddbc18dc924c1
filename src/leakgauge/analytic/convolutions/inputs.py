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

from leakgauge.analytic.convolutions.conjugate_gradient import conjugate_gradient
from leakgauge.analytic.convolutions.geometry import Geometry
from leakgauge.analytic.convolutions.lost_constants import Gauge
from leakgauge.core import Inapplicable
from leakgauge.core.pulse import Beat, quiet

FAINT = 3e-3
"""Singular values below this fraction of the largest give way to entries and outputs that decide their directions.

A gradient's errors grow by its inverse. Entries and outputs are as exact as the layers above.
"""
WEAK = 3e-5
"""Singular values of the gradient equations below this fraction of the largest do not count."""
DETERMINED = 0.02
"""Largest relative error of a known solution at which the equations count as determining it."""
PROBED, HOPELESS = 80, 0.35
"""Number of iterations after which a known solution must be found to within this relative error."""
LOOSER = 10.0
"""Factor by which the errors of entries and outputs may exceed those of gradient equations."""
ITERATIONS, SOLVED = 600, 1e-10
"""Largest number of conjugate gradient iterations on the open directions, and the residual that ends them."""


@dataclass(frozen=True, eq=False)
class GradientOf:
    """The gradient of one convolution's weight, with the signal that caused it.

    Args:
        geometry: The places that it reads.
        dweight: The gradient (O, C, K).
        full: The signal at the output (B, O, P) if every mask behind it were positive.
        mask: The mask (B, O, P) of the ReLU behind it. All True if there is none.
        doubts: Where the mask may be wrong (B, O, P).
        offset: A part of the signal (B, O, P) that no mask changes, as behind BatchNorm in train
            mode. None for 0.
    """

    geometry: Geometry
    dweight: Tensor
    full: Tensor
    mask: Tensor
    doubts: Tensor
    offset: Tensor | None = None

    @property
    def signal(self) -> Tensor:
        """The signal at the output (B, O, P)."""
        masked = self.full * self.mask
        return masked if self.offset is None else masked + self.offset

    def matrix(self) -> Tensor:
        """Return the matrix (O K, B N) of the gradient equations, which serves all input channels."""
        geometry, (batch, outputs, _) = self.geometry, self.full.shape
        found = self.full.new_zeros(outputs, geometry.taps, batch, geometry.places + 1)
        signal = self.signal.movedim(1, 0)  # (O, B, P)
        for tap in range(geometry.taps):
            # The places that one tap reads are distinct, but for the padding.
            found[:, tap].index_add_(2, geometry.sees[:, tap], signal)
        return found[..., : geometry.places].flatten(2).flatten(0, 1)

    @property
    def right(self) -> Tensor:
        """The right side (O K, C) of the equations."""
        return self.dweight.movedim(1, 2).flatten(0, 1)

    def gap(self, inputs: Tensor) -> Tensor:
        """Return the part (O K, C) of the gradient that inputs (B, C, N) do not explain."""
        return self.right - self.matrix() @ to_columns(inputs)


@dataclass(frozen=True, eq=False)
class OutputOf:
    """Known entries of a convolution's output.

    Args:
        geometry: The places that it reads.
        weight: The weight (O, C, K).
        output: The output without its bias (B, O, P).
        known: Marks the known entries (B, O, P).
    """

    geometry: Geometry
    weight: Tensor
    output: Tensor
    known: Tensor

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the output (B, O, P) of inputs (B, C, N), 0 where it is not known."""
        z = torch.einsum("bcpk,ock->bop", self.geometry.unfold(inputs), self.weight)
        return z * self.known

    def back(self, gap: Tensor) -> Tensor:
        """Return the adjoint (B, C, N) of `forward`."""
        return self.geometry.fold(torch.einsum("bop,ock->bcpk", gap * self.known, self.weight))


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


def to_columns(inputs: Tensor) -> Tensor:
    """Return inputs (B, C, N) as columns (B N, C), the layout of the unknowns."""
    return inputs.movedim(0, 1).flatten(1).T


def from_columns(columns: Tensor, batch: int) -> Tensor:
    """Return columns (B N, C) as inputs (B, C, N)."""
    return columns.T.reshape(columns.shape[1], batch, -1).movedim(0, 1)


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
    if _equations(entries, outputs) < open_values:
        return _too_few(f"at least {open_values}", _equations(entries, outputs))
    rows, right = rows / size, right / size
    ample = 0 if rough else _equations(entries, outputs)
    found: Solved | Inapplicable = Inapplicable("nothing is known")
    for limit in (FAINT, WEAK):
        factor, weak = _factor(rows.T @ rows, limit)
        if limit == FAINT and (not weak.shape[1] or weak.shape[1] * right.shape[1] > ample / 2):
            continue

        def fill(inputs: Tensor, weak: Tensor = weak) -> tuple[Tensor, float] | Inapplicable:
            if rough or not weak.shape[1]:
                return inputs, 0.0
            return _fill(inputs, weak, entries, outputs, beat)

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


def _equations(entries: tuple[Tensor, Tensor] | None, outputs: Sequence[OutputOf]) -> int:
    """Return the number of known entries and outputs."""
    known = sum(int(o.known.sum()) for o in outputs)
    return known + (0 if entries is None else int(entries[1].sum()))


def _too_few(unknowns: str, equations: int) -> Inapplicable:
    """Return the reason why an input is not determined, in numbers."""
    return Inapplicable(
        f"its gradient leaves {unknowns} values open, and only {equations} other equations are known"
    )


def _fill(
    inputs: Tensor,
    weak: Tensor,
    entries: tuple[Tensor, Tensor] | None,
    outputs: Sequence[OutputOf],
    beat: Beat,
) -> tuple[Tensor, float] | Inapplicable:
    """Return the inputs (B, C, N) with their open directions fitted to entries and outputs, and the misfit of these.

    Args:
        inputs: The solution of the gradient equations (B, C, N).
        weak: The directions (B N, k) that they leave open, for each channel.
        entries: Known entries, or None.
        outputs: Known outputs.
        beat: Called in each iteration.
    """
    batch, channels, _ = inputs.shape
    unknowns = weak.shape[1] * channels
    equations = _equations(entries, outputs)
    if equations < unknowns:
        return _too_few(str(unknowns), equations)
    sizes = [o.weight.square().sum((1, 2)).mean() for o in outputs]

    def spread(c: Tensor) -> Tensor:
        return from_columns(weak @ c, batch)

    def gather(u: Tensor) -> Tensor:
        return weak.T @ to_columns(u)

    def normal(c: Tensor) -> Tensor:
        beat()
        u = spread(c)
        total = torch.zeros_like(u) if entries is None else u * entries[1]
        for o, size in zip(outputs, sizes, strict=True):
            total = total + o.back(o.forward(u)) / size
        return gather(total)

    aim = torch.zeros_like(inputs) if entries is None else (entries[0] - inputs) * entries[1]
    for o, size in zip(outputs, sizes, strict=True):
        aim = aim + o.back(o.output - o.forward(inputs)) / size
    # A second system with a known solution shows whether the equations determine the directions.
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn((weak.shape[1], channels), generator=generator, dtype=torch.float64)
    probe = probe.to(weak)
    image, apart = normal(probe), 1.0
    for iterations, most in ((PROBED, HOPELESS), (ITERATIONS, DETERMINED)):
        found = conjugate_gradient(normal, image, iterations=iterations, solved=SOLVED)
        apart = float((found - probe).norm() / probe.norm())
        if apart > most or apart < DETERMINED:
            break
    if apart > DETERMINED:
        return Inapplicable(
            f"its gradient leaves {unknowns} values open, and {equations} other equations do not determine "
            f"them (relative error {apart:.0e} on a known solution)"
        )
    inputs = inputs + spread(
        conjugate_gradient(normal, gather(aim), iterations=ITERATIONS, solved=SOLVED)
    )
    return inputs, _disagreement(inputs, entries, outputs)


def _disagreement(
    inputs: Tensor, entries: tuple[Tensor, Tensor] | None, outputs: Sequence[OutputOf]
) -> float:
    """Return the largest relative misfit of the entries and of each output, at inputs (B, C, N)."""
    pairs = [(o.forward(inputs), o.output * o.known) for o in outputs]
    if entries is not None:
        pairs.append((inputs * entries[1], entries[0] * entries[1]))
    return max(
        float((found - aim).norm() / aim.norm()) for found, aim in pairs if float(aim.norm())
    )
