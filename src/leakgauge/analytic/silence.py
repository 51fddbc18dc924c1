"""Exact unmixing by silent outputs: a ReLU that an example does not excite has no part of its gradient.

delta_j = left p_j vanishes at every output that example j leaves inactive. A guess of h_j, pushed through
the known layer, tells which outputs those are, up to a few near zero: so p_j is the direction in which most
of them vanish, found by reweighted least squares from the guess's own direction, whatever the others do.
Ours; the sparsity that it uses is that of SPEAR (Dimitrov et al. 2024), which needs no guess: n - 1 outputs drawn
at random are now and then all inactive for one example, and leave but its direction. For few examples.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from leakgauge.analytic.mixtures import Mixture
from leakgauge.analytic.sparse_directions import sortable

STEPS = 15
SHRINK = 0.6
"""By what the scale at which an output counts as loud falls, a step."""
QUIET = 10.0
"""Values up to so many standard deviations of the noise are held to vanish."""
EXACT = 1e-12
"""What the arithmetic leaves of an output that vanishes, against the norm of all."""
SILENT = 0.85
"""Share of the outputs believed inactive that must vanish."""
SURPLUS = 0.3
"""Share of those outputs that must vanish beyond the n - 1 that any direction can be bent to."""


DRAWS, CHUNKS = 4096, 4
"""Sets of outputs drawn at once, and how often."""
KEPT = 8
"""Directions, for each example, that are kept of those drawn at once: mixtures may outnumber the examples' own."""
ALIKE = 0.999
"""Cosine from which two of them are one."""
DRAWN = 0.05
"""Share of all outputs that must vanish beyond the n - 1 drawn."""
CREDIBLE = 0.95
"""Fraction of outputs that the layer must sort as a direction does. Mixtures were seen to reach 0.91."""


@dataclass(frozen=True)
class Silent:
    """A direction p (n,) of unit norm, and the fraction of the outputs believed inactive that vanish in it.

    credit, in [0, 1.01]: 0 unless `credited` compared the direction with the layer.
    """

    direction: Tensor
    fraction: float
    credit: float = 0.0


def vanishing(mixture: Mixture, start: Tensor, depth: Tensor) -> Silent | None:
    """The direction near `start` (n,) in which the outputs with depth (O,) above 0 vanish; None where too few do.

    depth: how far below zero the layer's output is believed to be, 0 or less where it is not.
    """
    rows = (depth > 0).nonzero().squeeze(1)
    count = mixture.left.shape[1]
    least = max(SILENT * len(rows), count - 1 + SURPLUS * (len(rows) - count))
    if len(rows) <= count:
        return None
    left, trust = mixture.left[rows], depth[rows] / depth[rows].mean()
    direction, scale = start / start.norm(), torch.inf
    for _ in range(STEPS):
        loud = (left @ direction).abs()
        blur = max(float(mixture.blur(direction[:, None])), EXACT)
        quiet = loud <= QUIET * blur
        if int(quiet.sum()) >= least:
            exact = torch.linalg.svd(left[quiet], full_matrices=False)[2][-1]
            return Silent(exact, float(quiet.double().mean()))
        scale = SHRINK * min(scale, float(loud.median()))
        floor = max(scale, blur)
        direction = anchored(left, trust.square() / (loud.square() + floor**2), start)
    return None


def sampled(mixture: Mixture, generator: torch.Generator) -> list[Silent]:
    """Directions in which many outputs vanish, from outputs drawn at random; shares are of all outputs."""
    count = mixture.left.shape[1]
    left = mixture.left[heard(mixture)]
    if len(left) <= count:
        return []
    found: list[Silent] = []
    target = torch.eye(count, dtype=torch.float64)[-1]
    for _ in range(CHUNKS):
        drawn = left[torch.randint(len(left), (DRAWS, count - 1), generator=generator)]
        last = torch.randn((DRAWS, 1, count), generator=generator, dtype=torch.float64)
        solved, failed = torch.linalg.solve_ex(torch.cat([drawn, last], dim=1), target)
        solved = solved[(failed == 0) & solved.isfinite().all(1)]
        directions = (solved / solved.norm(dim=1, keepdim=True)).T
        blur = mixture.blur(directions).clamp_min(EXACT)
        quiet = (left @ directions).abs() <= QUIET * blur
        many = quiet.sum(0) >= count - 1 + DRAWN * len(left)
        found += distinct(left, directions[:, many], quiet[:, many], KEPT * count)
    return found


def heard(mixture: Mixture) -> Tensor:
    """Return which outputs (O,) have a gradient above the noise."""
    floor = mixture.noise * float((1 / mixture.strength).norm())
    outputs: Tensor = mixture.left.norm(dim=1) > QUIET * floor
    return outputs


def credited(mixture: Mixture, found: list[Silent], layer: Tensor) -> list[Silent]:
    """Return the credible directions with their credit, or all of them if none is credible.

    The credit is the fraction of outputs that the layer can sort as the direction does.
    layer (O, n) maps the coordinates of an input among the mixture's signals to the layer's outputs. The
    outputs that vanish for one example lie on one side of a plane. Those of a mixture mostly do not, although
    a mixture can vanish at more outputs: with C classes, any C examples that are active together have one.
    """
    rows = heard(mixture)
    if not found or int(rows.sum()) <= mixture.left.shape[1]:
        return found
    directions = torch.stack([silent.direction for silent in found], dim=1)
    blur = mixture.blur(directions).clamp_min(EXACT)
    quiet = ((mixture.left[rows] @ directions).abs() <= QUIET * blur).T
    credit = sortable(torch.linalg.qr(layer[rows])[0], quiet) + 0.01 * quiet.double().mean(1)
    graded = [replace(one, credit=float(value)) for one, value in zip(found, credit, strict=True)]
    return [one for one in graded if one.credit >= CREDIBLE] or graded


def distinct(left: Tensor, directions: Tensor, quiet: Tensor, most: int) -> list[Silent]:
    """At most so many of the directions (n, M), the most silent first, each once.

    quiet (O, M): which outputs vanish in each.
    """
    found: list[Silent] = []
    while directions.shape[1] and len(found) < most:
        best = int(quiet.sum(0).argmax())
        rows = quiet[:, best]
        exact = torch.linalg.svd(left[rows], full_matrices=False)[2][-1]
        found.append(Silent(exact, float(rows.double().mean())))
        other = (directions.T @ exact).abs() < ALIKE
        other[best] = False
        directions, quiet = directions[:, other], quiet[:, other]
    return found


def anchored(left: Tensor, weight: Tensor, start: Tensor) -> Tensor:
    """The unit p with the least sum_i weight_i (left p)_i^2 for its product with `start`."""
    gram = (left * weight[:, None]).T @ left
    gram.diagonal().add_(1e-13 * float(gram.diagonal().mean()))
    solved = torch.cholesky_solve(start[:, None], torch.linalg.cholesky(gram)).squeeze(1)
    direction: Tensor = solved / solved.norm()
    return direction


def independent(found: list[Silent], known: Tensor) -> Tensor:
    """`known` (n, k) and the directions found, the most credible first, less those that the others span."""
    basis = known
    for silent in sorted(found, key=lambda one: (-one.credit, -one.fraction)):
        if basis.shape[1] == basis.shape[0]:
            break
        axes = torch.linalg.qr(basis)[0]
        if float((silent.direction - axes @ (axes.T @ silent.direction)).norm()) > 1e-4:
            basis = torch.cat([basis, silent.direction[:, None]], dim=1)
    return basis
