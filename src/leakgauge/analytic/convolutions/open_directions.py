"""Directions of a convolution's input that its gradient leaves open, fitted to known entries and outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from leakgauge.analytic.convolutions.conjugate_gradient import conjugate_gradient
from leakgauge.analytic.convolutions.equations import OutputOf, from_columns, to_columns
from leakgauge.core import Inapplicable
from leakgauge.core.pulse import Beat

DETERMINED = 0.02
"""Largest relative error of a known solution at which the equations count as determining it."""
PROBED, HOPELESS = 80, 0.35
"""Number of iterations after which a known solution must be found to within this relative error."""
ITERATIONS, SOLVED = 600, 1e-10
"""Largest number of conjugate gradient iterations on the open directions, and the residual that ends them."""


def count_equations(entries: tuple[Tensor, Tensor] | None, outputs: Sequence[OutputOf]) -> int:
    """Return the number of known entries and outputs."""
    known = sum(int(o.known.sum()) for o in outputs)
    return known + (0 if entries is None else int(entries[1].sum()))


def too_few(unknowns: str, equations: int) -> Inapplicable:
    """Return the reason why an input is not determined, in numbers."""
    return Inapplicable(
        f"its gradient leaves {unknowns} values open, and only {equations} other equations are known"
    )


def fill_open(
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
    equations = count_equations(entries, outputs)
    if equations < unknowns:
        return too_few(str(unknowns), equations)
    sizes = [o.weight.square().sum((1, 2)).mean() for o in outputs]

    def spread(c: Tensor) -> Tensor:
        return from_columns(weak @ c, batch)

    def normal(c: Tensor) -> Tensor:
        beat()
        u = spread(c)
        total = torch.zeros_like(u) if entries is None else u * entries[1]
        for o, size in zip(outputs, sizes, strict=True):
            total = total + o.back(o.forward(u)) / size
        return weak.T @ to_columns(total)

    aim = torch.zeros_like(inputs) if entries is None else (entries[0] - inputs) * entries[1]
    for o, size in zip(outputs, sizes, strict=True):
        aim = aim + o.back(o.output - o.forward(inputs)) / size
    apart = _error_of_known_solution(normal, weak, channels)
    if apart > DETERMINED:
        return Inapplicable(
            f"its gradient leaves {unknowns} values open, and {equations} other equations do not determine "
            f"them (relative error {apart:.0e} on a known solution)"
        )
    inputs = inputs + spread(
        conjugate_gradient(normal, weak.T @ to_columns(aim), iterations=ITERATIONS, solved=SOLVED)
    )
    return inputs, disagreement(inputs, entries, outputs)


def _error_of_known_solution(
    normal: Callable[[Tensor], Tensor], weak: Tensor, channels: int
) -> float:
    """Return the relative error at which a system with a known solution is solved.

    It shows whether the equations determine the directions.

    Args:
        normal: The product of the normal equations with coefficients (k, C) of the directions.
        weak: The directions (B N, k).
        channels: Number of channels C.
    """
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn((weak.shape[1], channels), generator=generator, dtype=torch.float64)
    probe = probe.to(weak)
    image, apart = normal(probe), 1.0
    for iterations, most in ((PROBED, HOPELESS), (ITERATIONS, DETERMINED)):
        found = conjugate_gradient(normal, image, iterations=iterations, solved=SOLVED)
        apart = float((found - probe).norm() / probe.norm())
        if apart > most or apart < DETERMINED:
            break
    return apart


def disagreement(
    inputs: Tensor, entries: tuple[Tensor, Tensor] | None, outputs: Sequence[OutputOf]
) -> float:
    """Return the largest relative misfit of the entries and of each output, at inputs (B, C, N)."""
    pairs = [(o.forward(inputs), o.output * o.known) for o in outputs]
    if entries is not None:
        pairs.append((inputs * entries[1], entries[0] * entries[1]))
    return max(
        float((found - aim).norm() / aim.norm()) for found, aim in pairs if float(aim.norm())
    )
