"""Starts of softmax unmixing: coordinates q (n, K) of n examples that match low orders of the gradient.

The functions are:

- `moments`: To second order in the spread of the outputs, the gradient is linear in the mean
  features of each class and their common scatter. These leave a rotation free, which is drawn at
  random.
- `tables`: Probabilities are drawn with the column sums that the bias's gradient gives.
- `peeling`: The features of the loudest example are its label's row of the gradient, divided by the
  row's sum. The example's part is subtracted, and the next example follows.
- `multisets`: The labels that a batch can have, if they are not known.
- `hops`: Neighbors of solutions, by rotation within a few examples, exchange, and jitter.

References:
    Ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from leakgauge.analytic.whitening import Basis, White

BALANCE = 30
"""Rounds of row and column scaling (Sinkhorn)."""
FAR = 2.0
"""Largest distance of a start from the center, in widths."""


def moments(basis: Basis, labels: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return `count` starts (count, n, K), randomly rotated, from class means and scatter.

    `labels` (n,) are sorted.
    """
    means, scatter, classes, group = _second_order(basis, labels)
    n, rank, groups = len(labels), basis.rank, len(classes)
    sizes = one_hot(group, groups).double().sum(0)
    size = scatter.diagonal().abs().sqrt().clamp(1e-6 * basis.width, basis.width)
    middle = (sizes / n) @ means
    within = scatter - ((means - middle) * sizes.unsqueeze(1)).T @ (means - middle)
    starts = means[group].expand(count, n, rank).clone()
    open_ = min(n - groups, rank)
    if open_ > 0:
        spread, axes = torch.linalg.eigh(within / size / size.unsqueeze(1))
        top = spread.argsort(descending=True)[:open_]
        strength = spread[top].clamp_min(1e-3 * float(spread.abs().max())).clamp_max(4.0)
        factor = (axes[:, top] * strength.sqrt()).T * size
        member = one_hot(group, groups).double() / sizes.sqrt()
        turn = _normal((count, n, open_), generator)
        turn, _ = torch.linalg.qr(turn - member @ (member.T @ turn))
        starts += (turn * torch.exp(0.3 * _normal((count, 1, open_), generator))) @ factor
    if groups > 1:
        fraction = 0.1 * _uniform((count, 1, 1), generator)
        starts += fraction * _normal((count, n, rank), generator) * size
    return basis.on_constraint(starts)


def _second_order(basis: Basis, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return class means (g, K), scatter (K, K), classes (g,) and each label's class index (n,).

    They are fitted by least squares.
    """
    link, white, rank = basis.white.link, basis.white, basis.rank
    classes, group = torch.unique(labels, return_inverse=True)
    sizes = one_hot(group).double().sum(0)
    value = (white.sums + link.targets[labels].sum(0)) / len(labels)
    if link.activation != "identity":
        value = value.clamp_min(1e-12)
    if link.activation == "softmax":
        value = value / value.sum()
    slope = link.push(value, basis.logits, basis.rows)
    upper = torch.triu_indices(rank, rank)
    kinds = torch.zeros(upper.shape[1], rank, rank, dtype=torch.float64)
    index = torch.arange(upper.shape[1])
    kinds[index, upper[0], upper[1]] = kinds[index, upper[1], upper[0]] = 1
    deltas = (value - link.targets[classes])[:, basis.rows]
    eye = torch.eye(rank, dtype=torch.float64)
    sums = (deltas[:, None, :, None] * eye[None, :, None, :]).flatten(0, 1)
    weight = relative_weights(basis, 1.0)
    design = torch.cat([slope @ kinds, sums]) / basis.noise.unsqueeze(1) * weight
    design = design.flatten(1).T
    size = design.norm(dim=0).clamp_min(1e-300)
    product = (basis.product * weight).reshape(-1, 1)
    solved = torch.linalg.lstsq(design / size, product, rcond=1e-9, driver="gelsd").solution
    solved = solved.squeeze(1) / size
    split = upper.shape[1]
    means = solved[split:].reshape(-1, rank) / sizes.unsqueeze(1)
    means = _limit_distance(basis, basis.on_constraint(means) - basis.center)
    scatter = (solved[:split, None, None] * kinds).sum(0)
    across = eye - torch.outer(basis.unit, basis.unit) / basis.unit.square().sum()
    return means, across @ scatter @ across, classes, group


def tables(basis: Basis, labels: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return `count` starts (count, n, K), by ridge regression on drawn probabilities."""
    link = basis.white.link
    targets = link.targets[labels]
    classes, n = targets.shape[1], len(labels)
    column = (basis.white.sums + targets.sum(0)).clamp_min(1e-9)
    column = column * n / column.sum()
    contrast = 3 * _uniform((count, 1, 1), generator)
    drawn = column.clamp_min(1e-6) * torch.exp(contrast * _normal((count, n, classes), generator))
    own = one_hot(labels, classes).double()
    loud = _uniform((count, n, 1), generator)
    drawn = drawn * (1 - own)
    drawn = drawn / drawn.sum(-1, keepdim=True) * loud + own * (1 - loud)
    for _ in range(BALANCE):
        drawn = drawn * (column / drawn.sum(1, keepdim=True).clamp_min(1e-300))
        drawn = drawn / drawn.sum(2, keepdim=True).clamp_min(1e-300)
    delta = (drawn - targets)[..., basis.rows] / basis.noise
    normal = delta @ delta.mT
    power = normal.diagonal(dim1=1, dim2=2)
    normal = normal + torch.diag_embed(1e-4 * power + 1e-6 * power.amax(1, keepdim=True) + 1e-300)
    right = delta @ (basis.product - delta.sum(1).unsqueeze(-1) * basis.center)
    return _limit_distance(basis, torch.linalg.solve(normal, right))


def peeling(basis: Basis, labels: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return `count` starts (count, n, K), built from the loudest label on.

    Jitter and a random order of similar labels vary them.
    """
    link, n, every = basis.white.link, len(labels), torch.arange(count)
    rest = (basis.white.whole / basis.white.columns) @ basis.right.T
    rest = rest.expand(count, *rest.shape).clone()
    left = torch.ones(count, n, dtype=torch.bool)
    starts = torch.zeros(count, n, basis.rank, dtype=torch.float64)
    jitter = torch.exp(-1 - 8 * _uniform((count, 1), generator)) * basis.width
    warmth = 2 * _uniform((count, 1), generator)
    for _ in range(n):
        need = -(rest @ basis.unit)[:, labels]
        gumbel = -torch.log(-torch.log(_uniform((count, n), generator)))
        score = need.clamp_min(1e-300).log() + warmth * gumbel
        chosen = score.masked_fill(~left, -torch.inf).argmax(1)
        label = labels[chosen]
        row = rest[every, label]
        total = (row @ basis.unit).unsqueeze(1)
        # A row with a sum of 0 or more shows no example of its label.
        away = torch.where(total < 0, row / total.clamp_max(-1e-300) - basis.center, 0.0)
        moved = _limit_distance(basis, away) - basis.center
        moved = moved + jitter * _normal((count, basis.rank), generator) / math.sqrt(basis.rank)
        q = basis.on_constraint(basis.center + moved)
        delta = link.value(q @ basis.logits.T + basis.white.offset) - link.targets[label]
        rest -= delta.unsqueeze(2) * q.unsqueeze(1)
        starts[every, chosen], left[every, chosen] = q, False
    return starts


def hops(
    basis: Basis, parents: Tensor, labels: Tensor, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return `count` neighbors (count, n, K) of known solutions, and their labels (count, n).

    Args:
        basis: The row space.
        parents: (P, n, K), solutions, best first.
        labels: (P, n), their labels.
        count: Number of neighbors.
        generator: Source of the draws.
    """
    n, rank = parents.shape[1:]
    chosen = (_uniform((count,), generator).square() * len(parents)).long()
    starts, kept = parents[chosen].clone(), labels[chosen]
    order = _uniform((count, n), generator).argsort(1)
    kind = _uniform((count,), generator).tolist()
    size = torch.randint(2, 5, (count,), generator=generator).clamp_max(n).tolist()
    for i in range(count):
        some = order[i, : size[i]]
        if kind[i] < 0.6 and n > 1:
            starts[i, some] = _rotate(starts[i, some], generator)
        elif kind[i] < 0.8:
            other = int(torch.randint(len(parents), (1,), generator=generator))
            if bool((labels[other] == kept[i]).all()):
                starts[i, some] = parents[other, some]
        else:
            size_ = basis.width * math.exp(-6 * float(_uniform((1,), generator)))
            starts[i, some[:1]] += size_ * _normal((rank,), generator)
    return basis.on_constraint(starts), kept


def _rotate(some: Tensor, generator: torch.Generator) -> Tensor:
    """Return a few rows (s, K), rotated among each other. Their mean and scatter do not change."""
    s = len(some)
    frame = _normal((s, s), generator)
    frame[:, 0] = 1
    across = torch.linalg.qr(frame)[0][:, 1:]
    turn = torch.linalg.qr(_normal((s - 1, s - 1), generator))[0]
    middle = some.mean(0)
    turned: Tensor = middle + across @ turn @ (across.T @ (some - middle))
    return turned


def multisets(white: White, counts: Tensor | None, size: int) -> Iterator[Tensor]:
    """Yield sorted labels (size,) that fit the column sums, and `counts` (C,) if known, likeliest first."""
    classes = len(white.sums)
    if counts is not None and size == int(counts.sum()):
        yield torch.repeat_interleave(torch.arange(classes), counts.long())
        return
    most = torch.full((classes,), size) if counts is None else counts.long()
    # Activations are at least 0, so the column sum plus the sum of the targets is at least 0.
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
    # Each further example of a class needs more activation than the column sum shows.
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


def relative_weights(basis: Basis, fraction: float) -> Tensor:
    """Return one weight (K,) for each direction, given noise of 1 and an error of `fraction` of its size."""
    size = basis.values.square() / len(basis.white.rows)
    weights: Tensor = (1 + fraction**2 * size).rsqrt()
    return weights


def _limit_distance(basis: Basis, away: Tensor) -> Tensor:
    """Return center + away (..., K), at most FAR widths from the center."""
    excess = away.norm(dim=-1, keepdim=True) / (FAR * basis.width)
    near: Tensor = basis.center + away / excess.clamp_min(1)
    return near


def _normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return standard normal draws in float64."""
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return uniform draws from 0 to 1 in float64."""
    return torch.rand(shape, generator=generator, dtype=torch.float64)
