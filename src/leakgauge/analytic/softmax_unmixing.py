"""Softmax unmixing: every example's features from the last layer's gradient alone, whatever the labels.

B dW = D' H, where row i of D is softmax(W h_i + b) - onehot(y_i). The singular vectors of dW give the
row space of H, so H = Q R with Q (n, K) unknown: C K equations in n (K - 1) unknowns, since the bias's
gradient makes the last entry of every h known. Solved by Levenberg-Marquardt from many starts that
meet the gradient to second order; a residual at the level of rounding is its own certificate.
An example whose own gradient is lost in the rounding of the others' is out of reach, and said to be.
Ours; we know of no publication.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, islice

import torch
from torch import Tensor

from leakgauge.analytic.links import Link
from leakgauge.analytic.unmixing_fit import Equations, Fits, Stage
from leakgauge.analytic.unmixing_starts import hops, moments, peeling, tables
from leakgauge.analytic.whitening import OWN, Basis, Layer, Noise, White, basis, whiten

AT_NOISE = 5.0
"""Squared residual for each degree of freedom, in units of the noise, at which the search ends."""
CERTIFIED = 60.0
"""The same, up to which the noise model (known to a factor of a few) is met; false minima lie far above."""
FOUND = 0.05
"""Relative error, estimated, up to which an example counts as found."""
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
"""Rounds of the search: from fresh starts or hops, and the prior's weight while directions weigh alike."""
STARTS = 128
LABELINGS = 16
"""Label multisets tried at once."""
WORK = 4e8
"""Products a step, that set how many starts large batches get."""


@dataclass(frozen=True)
class Unmixed:
    """What the last layer tells of B examples, loudest first.

    features (B, d), outputs (B, C) and labels (B,), -1 where unknown; error (B,) is the estimated
    relative error of the features, inf where no guess is made (their features are 0); loudness (B,) is
    the norm of each example's own dL/dz, 0 where out of reach; misfit is the squared residual for each
    degree of freedom in units of the noise; residual is relative to the gradient's norm.
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
        """Which examples (B,) are known to FOUND or better."""
        return (self.error <= FOUND) & (self.misfit <= CERTIFIED)

    @property
    def certified(self) -> bool:
        """Whether the residual is that of rounding, and every example is told."""
        return bool(self.found.all())


@dataclass(frozen=True)
class _Solution:
    """The best of one attempt: q (n, K), labels (n,), misfit, J'J; and the pool that hops start from."""

    basis: Basis
    equations: Equations
    fits: Fits
    misfit: float
    pool: tuple[Tensor, Tensor]


def unmix(
    layer: Layer,
    link: Link,
    *,
    generator: torch.Generator,
    noise: Noise | None = None,
    counts: Tensor | None = None,
    rounds: int = len(ROUNDS),
) -> Unmixed:
    """The examples' features. counts (C,): how many examples of each label, searched where None."""
    white = whiten(layer, link, counts, noise or Noise())
    best: _Solution | None = None
    pools: dict[int, tuple[Tensor, Tensor]] = {}
    for fresh, prior in ROUNDS[:rounds]:
        # Fewer examples than the batch may hold all that stands out of the rounding: the least that fit.
        for count in sorted({*range(white.rank, min(white.rank + 3, layer.batch)), layer.batch}):
            pool = None if fresh else pools.get(count)
            solution = _attempt(white, count, counts, prior, pool, generator)
            if solution is None:
                continue
            pools[count] = solution.pool
            if best is None or solution.misfit < best.misfit:
                best = solution
            if best.misfit <= AT_NOISE:
                return _result(best, counts)
        if fresh is False and best is not None and best.misfit <= CERTIFIED:
            break
    assert best is not None, "the whole batch is always tried"
    return _result(best, counts)


def _attempt(
    white: White,
    count: int,
    counts: Tensor | None,
    prior: float,
    pool: tuple[Tensor, Tensor] | None,
    generator: torch.Generator,
) -> _Solution | None:
    """One round of the search, for `count` examples; None where no multiset of labels allows them."""
    space = basis(white, min(count, white.rank))
    starts = _affordable(space, count)
    alike = Equations(space, Stage(1.0, prior))
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
    fits = alike.descend(q, labels, 60, halve=20)
    fits = fits.take(fits.cost.argsort()[:16])
    pool = alike.outside(fits.points), fits.labels
    q, labels = pool[0][:8], pool[1][:8]
    for stage, steps in (
        (Stage(1e-3, min(1.0, 100 * prior)), 15),
        (Stage(32 * max(white.noise.computed, OWN), 1.0), 25),
    ):
        equations = Equations(space, stage)
        fits = equations.descend(q, labels, steps)
        q, labels = equations.outside(fits.points), fits.labels
    fits = fits.take(fits.cost.argsort()[:1])
    freedom = max(1, _equations(space) - fits.points[0].numel())
    return _Solution(space, equations, fits, float(fits.cost[0]) / freedom, pool)


def _equations(space: Basis) -> int:
    """How many independent equations: the rows of a softmax layer's gradient sum to 0."""
    whole = len(space.rows) == len(space.white.rows)
    lost = 1 if whole and space.white.link.activation == "softmax" else 0
    return (len(space.rows) - lost) * space.rank


def _affordable(space: Basis, count: int) -> int:
    """How many starts, for about the same work at every size."""
    products = len(space.rows) * (count * space.rank) ** 2
    return max(4, min(STARTS, int(WORK / products)))


def _fresh(
    space: Basis, labelings: list[Tensor], starts: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Starts (S, n, K) of every kind for every labeling, and their labels (S, n)."""
    kinds = [peeling]
    activation = space.white.link.activation
    # The second-order system has K^2 / 2 unknowns and more: for small batches only.
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


def multisets(white: White, counts: Tensor | None, size: int) -> Iterator[Tensor]:
    """Sorted labels (size,) that the column sums allow, likeliest first; within counts (C,), where known."""
    classes = len(white.sums)
    if counts is not None and size == int(counts.sum()):
        yield torch.repeat_interleave(torch.arange(classes), counts.long())
        return
    most = torch.full((classes,), size) if counts is None else counts.long()
    # No activation is below 0: sum_i act = sum of targets + sums >= 0.
    need = -white.sums / white.link.targets.diagonal().clamp_min(1e-12)
    least = torch.where(need > 1e-3, (need - 1e-4).ceil(), 0.0).long()
    least = torch.minimum(least, most)
    open_ = size - int(least.sum())
    if open_ < 0:
        strongest = need.argsort(descending=True)
        strongest = strongest[most[strongest] > 0][:size]
        if len(strongest) == size:
            yield strongest.sort().values
        return
    # Each further example of a class needs more activation there than was seen.
    extra = [
        (float(need[c] - least[c]) - k, c)
        for c in range(classes)
        for k in range(min(int(most[c] - least[c]), open_))
    ]
    extra = sorted(extra, reverse=True)[: open_ + 6]
    ranked = sorted(combinations(extra, open_), key=lambda some: -sum(score for score, _ in some))
    seen: set[tuple[int, ...]] = set()
    sure = torch.repeat_interleave(torch.arange(classes), least).tolist()
    for some in ranked:
        labels = tuple(sorted([*sure, *(c for _, c in some)]))
        if labels not in seen:
            seen.add(labels)
            yield torch.tensor(labels, dtype=torch.long)


def _result(solution: _Solution, counts: Tensor | None) -> Unmixed:
    """Features, outputs and errors in the layer's own units, loudest first."""
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
    """Standard errors (n,) of the features' norm: of q by (J'J)^-1, and of the row space's directions."""
    space, equations = solution.basis, solution.equations
    n, m = solution.fits.points.shape[1:]
    columns = space.white.columns[:-1] if space.white.layer.told else space.white.columns
    right = space.right[:, : len(columns)] * columns
    lean = columns.square().sum() * (q / space.values).square().sum(1)
    if m == 0:
        return lean.sqrt()
    normal = solution.fits.normal[0]
    size = normal.diagonal().rsqrt()
    scaled = normal * size * size.unsqueeze(1)
    covariance = torch.linalg.pinv(scaled, rtol=1e-15, hermitian=True) * size * size.unsqueeze(1)
    metric = equations.free.T @ (right @ right.T) @ equations.free
    blocks = covariance.reshape(n, m, n, m).diagonal(dim1=0, dim2=2)  # (m, m, n)
    spread = (blocks * metric.unsqueeze(2)).sum((0, 1)).clamp_min(0)
    errors: Tensor = (lean + spread * max(1.0, solution.misfit)).sqrt()
    return errors
