"""Softmax unmixing: all examples' features from the last layer's gradient alone, for any labels.

With dW = dL/dW of a mean loss and B examples, `B dW = D' H`. Row i of D (B, C) is
`softmax(W h_i + b) - onehot(y_i)`. Row i of H holds h_i: the features of example i, and a 1 if the
bias has a gradient. The K strongest singular vectors of dW are a basis R of the row space of H. For
n examples, H = Q R with unknown Q (n, K), and D(Q)' Q = M with known M (C, K).

These are C K equations in n (K - 1) unknowns, since the bias's gradient fixes the last entry of
every h_i at 1. Levenberg-Marquardt solves them, from many starts that match the gradient to second
order. A residual of rounding size certifies the solution. An example whose gradient is smaller than
the rounding of the others cannot be recovered. The result marks it.

References: Ours. We know of no publication.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from leakgauge.analytic.loss_link import LossLink
from leakgauge.analytic.unmixing_fit import LARGE, Equations, Fits, Stage
from leakgauge.analytic.unmixing_ladder import climb
from leakgauge.analytic.unmixing_starts import hops, moments, multisets, peeling, tables
from leakgauge.analytic.whitening import OWN, Basis, Blur, Layer, White, basis, whiten

AT_NOISE = 5.0
"""The search ends at this squared residual for each degree of freedom, in units of the noise."""
CERTIFIED = 60.0
"""Largest squared residual of a certified solution, in the same units.

The noise is known only up to a factor of a few. False minima have far larger residuals.
"""
FOUND = 0.05
"""Largest estimated relative error of an example that counts as found."""
ROUNDS = (
    (True, 1e-4),
    (False, 1e-4),
    (False, 1e-4),
    (True, 1.0),
    (False, 1.0),
    (True, 1e-4),
    (False, 1e-4),
    (True, 1e-2),
    (False, 1e-2),
)
"""Rounds of the search.

Each has two settings: whether its starts are new or are hops from earlier solutions, and the
prior's weight in the first fit.
"""
CLIMB = 2
"""Round before which the ladder runs (`unmixing_ladder`)."""
STARTS = 128
"""Most starts of a round."""
LABELINGS = 16
"""Largest number of label multisets tried in one round."""
WORK = 4e8
"""Largest number of products in one step. It limits the number of starts for large batches."""


Pool = tuple[Tensor, Tensor]
"""Coordinates (P, n, K) and labels (P, n) of solutions, best first. Hops start from them."""


@dataclass(frozen=True)
class Unmixed:
    """Features of B examples that follow from the last layer, loudest first.

    Args:
        features: (B, d). 0 for an example that cannot be recovered.
        outputs: (B, C), the layer's outputs.
        labels: (B,), -1 if unknown.
        error: (B,), estimated relative error of the features. Infinite for an example that cannot
            be recovered.
        loudness: (B,), norm of each example's own dL/dz. 0 for an example that cannot be recovered.
        rank: Number of directions of the row space above the noise.
        misfit: Squared residual for each degree of freedom, in units of the noise.
        residual: Residual relative to the gradient's norm.
    """

    features: Tensor
    outputs: Tensor
    labels: Tensor
    error: Tensor
    loudness: Tensor
    rank: int
    misfit: float
    residual: float

    @property
    def found(self) -> Tensor:
        """Mask (B,) of the examples with a relative error of at most FOUND, if the solution is certified."""
        return (self.error <= FOUND) & (self.misfit <= CERTIFIED)

    @property
    def certified(self) -> bool:
        """Whether the residual is that of rounding, and every example is found."""
        return bool(self.found.all())


@dataclass(frozen=True)
class _Solution:
    """The best solution of one attempt.

    Args:
        basis: The row space.
        equations: The equations of the last stage.
        fits: Coordinates, labels and J'J.
        misfit: Squared residual for each degree of freedom.
        pool: Solutions that hops start from.
    """

    basis: Basis
    equations: Equations
    fits: Fits
    misfit: float
    pool: Pool


def unmix(
    layer: Layer,
    link: LossLink,
    *,
    generator: torch.Generator,
    noise: Blur | None = None,
    counts: Tensor | None = None,
    tell: Callable[[float], None] | None = None,
) -> Unmixed:
    """Return the features of the examples.

    Args:
        layer: The last layer and its gradients.
        link: The loss.
        generator: Source of the draws.
        noise: Noise of the gradient. By default the rounding of float32.
        counts: (C,), the number of examples of each label. By default they are searched too.
        tell: Receives, from time to time, the fraction of the rounds that is done.
    """
    white = whiten(layer, link, counts, noise or Blur())
    best: _Solution | None = None
    climbed: _Solution | None = None
    for round_, solutions in enumerate(_rounds(white, counts, generator)):
        for solution in solutions:
            if solution.basis.white is not white:
                climbed = solution
            elif best is None or solution.misfit < best.misfit:
                best = solution
            if best is not None and best.misfit <= AT_NOISE:
                return _result(best, counts)
            if tell is not None:
                tell(round_ / (len(ROUNDS) + 1))
        if round_ > 0 and best is not None and best.misfit <= CERTIFIED:
            break
    assert best is not None, "expected a solution, since the whole batch is always tried"
    if climbed is not None and climbed.misfit <= CERTIFIED < best.misfit:
        best = climbed
    return _result(best, counts)


def _rounds(
    white: White, counts: Tensor | None, generator: torch.Generator
) -> Iterator[Iterator[_Solution]]:
    """Yield the solutions of each round of the search. After the first two rounds, yield those of the ladder."""
    pools: dict[int, Pool] = {}

    def attempts(fresh: bool, prior: float) -> Iterator[_Solution]:
        # Fewer examples than the batch holds may explain all of the gradient above the rounding.
        # Small numbers are tried first.
        for count in sorted({*range(white.rank, min(white.rank + 3, batch)), batch}):
            pool = None if fresh else pools.get(count)
            solution = _attempt(white, count, counts, prior, pool, generator)
            if solution is not None:
                pools[count] = solution.pool
                yield solution

    batch = white.layer.batch

    def climbed() -> Iterator[_Solution]:
        for solution in _climb_ladder(white, counts, generator):
            if solution.basis.white is white:
                pools[len(solution.fits.labels[0])] = solution.pool
            yield solution

    for round_, (fresh, prior) in enumerate(ROUNDS):
        if round_ == CLIMB and batch * white.rank <= LARGE:
            yield climbed()
        yield attempts(fresh, prior)


def _attempt(
    white: White,
    count: int,
    counts: Tensor | None,
    prior: float,
    pool: Pool | None,
    generator: torch.Generator,
) -> _Solution | None:
    """Return the best solution of one round for `count` examples, or None if no multiset of labels fits."""
    space = basis(white, min(count, white.rank))
    starts = _affordable_starts(space, count)
    equations = Equations(space, Stage(1.0, prior))
    if pool is None:
        labelings = list(islice(multisets(white, counts, count), LABELINGS))
        if not labelings:
            return None
        q, labels = _fresh(space, labelings, starts, generator)
        first = Equations(space, Stage(1.0, prior, logs=True))
        begun = first.descend(q, labels, 30, halve=20)
        q, labels = first.outside(begun.points), begun.labels
    else:
        q, labels = hops(space, *pool, starts, generator)
        q, labels = torch.cat([pool[0], q]), torch.cat([pool[1], labels])
    fits = equations.descend(q, labels, 60, halve=20)
    fits = fits.take(fits.cost.argsort()[:16])
    pool = equations.outside(fits.points), fits.labels
    return _polish(space, pool, Stage(1e-3, min(1.0, 100 * prior)))


def _polish(space: Basis, pool: Pool, first: Stage) -> _Solution:
    """Return the best solution of a pool, after a fit at the full precision of the gradient."""
    q, labels = pool[0][:8], pool[1][:8]
    for stage, steps in ((first, 15), (Stage(32 * max(space.white.noise.computed, OWN), 1.0), 25)):
        equations = Equations(space, stage)
        fits = equations.descend(q, labels, steps)
        q, labels = equations.outside(fits.points), fits.labels
    fits = fits.take(fits.cost.argsort()[:1])
    freedom = max(1, space.equations - fits.points[0].numel())
    return _Solution(space, equations, fits, float(fits.cost[0]) / freedom, pool)


def _climb_ladder(
    white: White, counts: Tensor | None, generator: torch.Generator
) -> Iterator[_Solution]:
    """Yield the solution of the last rung that holds, then that of the last rung if it is a different one."""
    rungs = list(climb(white, counts, generator))
    held = [rung for rung in rungs if rung.holds][-1:]
    for rung in held if rungs[-1:] == held else held + rungs[-1:]:
        size = len(rung.candidates[0][1])
        same_size = [candidate for candidate in rung.candidates if len(candidate[1]) == size]
        pool = (
            torch.stack([q for q, _ in same_size]),
            torch.stack([labels for _, labels in same_size]),
        )
        yield _polish(rung.space, pool, Stage(1e-3, 1.0))


def _affordable_starts(space: Basis, count: int) -> int:
    """Return the number of starts, chosen so that a step takes about the same work at every batch size."""
    products = len(space.rows) * (count * space.rank) ** 2
    return max(4, min(STARTS, int(WORK / products)))


def _fresh(
    space: Basis, labelings: list[Tensor], starts: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return starts (S, n, K) of every kind for every labeling, and their labels (S, n)."""
    kinds = [peeling]
    activation = space.white.link.activation
    # The second-order system has at least K^2 / 2 unknowns, so it suits small batches only.
    if space.rank <= 12:
        kinds.append(moments)
    if activation == "softmax":
        kinds.append(tables)
    each = max(4 if starts >= 16 else 2, starts // len(labelings) // len(kinds))
    found: list[Tensor] = []
    held: list[Tensor] = []
    for labels in labelings:
        for kind in kinds:
            found.append(kind(space, labels, each, generator))
            held.append(labels.expand(each, -1))
    return torch.cat(found), torch.cat(held)


def _result(solution: _Solution, counts: Tensor | None) -> Unmixed:
    """Return features, outputs and errors in the layer's own units, loudest first."""
    space, white = solution.basis, solution.basis.white
    q = solution.equations.outside(solution.fits.points[0])
    labels, link, batch = solution.fits.labels[0], white.link, white.layer.batch
    outputs = q @ space.logits.T + white.offset
    delta = link.value(outputs) - link.targets[labels]
    h = (q @ space.right) * white.columns
    residual = float((delta.T @ h - white.whole).norm() / white.whole.norm())
    features = space.features(q)
    error = _errors(solution, q) / features.norm(dim=1).clamp_min(1e-300)
    loudness = delta.norm(dim=1) * link.scale
    order = loudness.argsort(descending=True)
    quiet = batch - len(order)
    rest = torch.full((quiet,), -1)
    if counts is not None and quiet:
        left = counts.long() - torch.bincount(labels, minlength=len(counts))
        rest = torch.repeat_interleave(torch.arange(len(counts)), left.clamp_min(0))[:quiet]
    return Unmixed(
        features=torch.cat([features[order], features.new_zeros(quiet, features.shape[1])]),
        outputs=torch.cat(
            [outputs[order] * link.temperature, outputs.new_zeros(quiet, outputs.shape[1])]
        ),
        labels=torch.cat([labels[order], rest]),
        error=torch.cat([error[order], error.new_full((quiet,), math.inf)]),
        loudness=torch.cat([loudness[order], loudness.new_zeros(quiet)]),
        rank=space.rank,
        misfit=solution.misfit,
        residual=residual,
    )


def _errors(solution: _Solution, q: Tensor) -> Tensor:
    """Return the standard errors (n,) of the features' norm.

    They combine three errors: that of q from (J'J)^-1, that of the directions, and that of
    directions below the noise.
    """
    space, equations = solution.basis, solution.equations
    n, m = solution.fits.points.shape[1:]
    columns = space.white.columns[:-1] if space.white.layer.has_dbias else space.white.columns
    right = space.right[:, : len(columns)] * columns
    lean = columns.square().sum() * (q / space.values).square().sum(1)
    if n > space.rank:
        # Examples that share directions can also differ in directions that cancel. These
        # differences are assumed to be as large as in the weakest known direction.
        lean = lean + (n - space.rank) * (q.var(0) * right.square().sum(1)).min()
    if m == 0:
        return lean.sqrt() if n == 1 else torch.full_like(lean, math.inf)
    normal = solution.fits.normal[0]
    size = normal.diagonal().rsqrt()
    scaled = normal * size * size.unsqueeze(1)
    covariance = torch.linalg.pinv(scaled, rtol=1e-15, hermitian=True) * size * size.unsqueeze(1)
    metric = equations.free.T @ (right @ right.T) @ equations.free
    blocks = covariance.reshape(n, m, n, m).diagonal(dim1=0, dim2=2)  # (m, m, n)
    spread = (blocks * metric.unsqueeze(2)).sum((0, 1)).clamp_min(0)
    errors: Tensor = (lean + spread * max(1.0, solution.misfit)).sqrt()
    return errors
