"""Exact unmixing by silent outputs.

An example has no gradient at outputs that it leaves below zero.

The gradient of example j at the outputs is delta_j = left p_j, with known left (O, n) and an unknown
direction p_j (n,). It is zero at every output that the example leaves inactive. An estimate of the
input h_j, passed through the known layer, predicts the inactive outputs, except for a few near
zero. An output o vanishes in a direction p if (left p)_o is zero. Most predicted outputs vanish in
p_j. Reweighted least squares finds p_j from the estimate's own direction, independently of the other
examples.

SPEAR uses the same sparsity without an estimate. It draws n - 1 outputs at random. Sometimes one
example leaves all of these outputs inactive, and they then determine its direction. This works for
small n.

References:
    Ours. The sparsity is that of Dimitrov, Baader, Müller, Vechev. SPEAR: Exact Gradient Inversion
    of Batches in Federated Learning. NeurIPS 2024. arXiv:2403.03945.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from leakgauge.analytic.mixtures import Mixture
from leakgauge.analytic.sparse_directions import sortable

STEPS = 15
"""Steps of reweighted least squares."""
SHRINK = 0.6
"""Factor by which the scale above which an output counts as loud falls in each step."""
QUIET = 10.0
"""Standard deviations of the noise within which a value counts as 0."""
EXACT = 1e-12
"""Size of a vanishing output that rounding in float64 leaves, relative to the norm of all outputs."""
SILENT = 0.85
"""Least fraction of the predicted inactive outputs that must vanish."""
SURPLUS = 0.3
"""Least fraction of the predicted inactive outputs that must vanish, beyond the n - 1 that can
vanish in any direction.
"""


DRAWS, CHUNKS = 4096, 4
"""Number of random sets of outputs in one draw, and number of draws."""
KEPT = 8
"""Number of directions kept from one draw, for each example.

Directions of mixtures can outnumber those of single examples.
"""
ALIKE = 0.999
"""Cosine from which two directions count as one."""
DRAWN = 0.05
"""Least fraction of all outputs that must vanish, beyond the n - 1 drawn ones."""
CREDIBLE = 0.95
"""Least credit of a credible direction (`credit_directions`). The largest credit measured for a mixture was 0.91."""


@dataclass(frozen=True)
class Silent:
    """A direction in which many outputs vanish.

    Args:
        direction: p (n,), of unit norm.
        fraction: Fraction of the predicted inactive outputs that vanish in this direction.
        credit: Credit of `credit_directions`, from 0 to 1.01. It is 0 if that function was not
            called.
    """

    direction: Tensor
    fraction: float
    credit: float = 0.0


def vanishing_direction(mixture: Mixture, start: Tensor, depth: Tensor) -> Silent | None:
    """Return a direction near `start` in which deep outputs vanish, or None if too few do.

    Args:
        mixture: The mixture of signals.
        start: (n,), the direction of the estimate.
        depth: (O,), predicted distance of the layer's output below zero. An output is deep if this is
            above 0, and active otherwise.
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
        direction = anchored_direction(left, trust.square() / (loud.square() + floor**2), start)
    return None


def sample_directions(mixture: Mixture, generator: torch.Generator) -> list[Silent]:
    """Return directions in which many outputs vanish, from random sets of outputs.

    Their fractions are of all outputs.
    """
    count = mixture.left.shape[1]
    left = mixture.left[above_noise(mixture)]
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


def above_noise(mixture: Mixture) -> Tensor:
    """Return a mask (O,) of the outputs whose gradient is above the noise."""
    floor = mixture.noise * float((1 / mixture.strength).norm())
    outputs: Tensor = mixture.left.norm(dim=1) > QUIET * floor
    return outputs


def credit_directions(mixture: Mixture, found: list[Silent], layer: Tensor) -> list[Silent]:
    """Return the credible directions with their credit, or all of them if none is credible.

    The credit is the fraction of outputs that a plane of the layer separates as the direction does,
    into vanishing and other outputs. For one example, all vanishing outputs lie on one side of a
    plane. For a mixture of examples they mostly do not, although more outputs can vanish. With C
    classes, any C examples that are active together have a mixture that vanishes.

    Args:
        mixture: The mixture of signals.
        found: The directions.
        layer: (O, n), map from an input's coordinates among the mixture's signals to the layer's
            outputs.
    """
    rows = above_noise(mixture)
    if not found or int(rows.sum()) <= mixture.left.shape[1]:
        return found
    directions = torch.stack([silent.direction for silent in found], dim=1)
    blur = mixture.blur(directions).clamp_min(EXACT)
    quiet = ((mixture.left[rows] @ directions).abs() <= QUIET * blur).T
    credit = sortable(torch.linalg.qr(layer[rows])[0], quiet) + 0.01 * quiet.double().mean(1)
    graded = [replace(one, credit=float(value)) for one, value in zip(found, credit, strict=True)]
    return [one for one in graded if one.credit >= CREDIBLE] or graded


def distinct(left: Tensor, directions: Tensor, quiet: Tensor, most: int) -> list[Silent]:
    """Return at most `most` different directions. Those in which most outputs vanish come first.

    Args:
        left: (O, n), maps a direction to the outputs.
        directions: (n, M).
        quiet: (O, M), the outputs that vanish in each direction.
        most: Largest number of directions.
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


def anchored_direction(left: Tensor, weight: Tensor, start: Tensor) -> Tensor:
    """Return the unit p with the least sum_i weight_i (left p)_i^2 for a fixed product with `start`."""
    gram = (left * weight[:, None]).T @ left
    gram.diagonal().add_(1e-13 * float(gram.diagonal().mean()))
    solved = torch.cholesky_solve(start[:, None], torch.linalg.cholesky(gram)).squeeze(1)
    direction: Tensor = solved / solved.norm()
    return direction


def independent_directions(found: list[Silent], known: Tensor) -> Tensor:
    """Return `known` (n, k), extended by independent directions found, the most credible first."""
    basis = known
    for silent in sorted(found, key=lambda one: (-one.credit, -one.fraction)):
        if basis.shape[1] == basis.shape[0]:
            break
        axes = torch.linalg.qr(basis)[0]
        if float((silent.direction - axes @ (axes.T @ silent.direction)).norm()) > 1e-4:
            basis = torch.cat([basis, silent.direction[:, None]], dim=1)
    return basis
