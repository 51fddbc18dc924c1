"""Softmax unmixing with a noise floor that falls step by step: the loudest examples come first.

This is deflation in the form of a homotopy. In one batch of a trained network, some gradients have
size 1 and others 1e-8. Above a high floor only the loudest example remains, and its equation is
easy to solve. The floor then falls by FACTOR from rung to rung, and the next examples appear above
it. Each rung tries one more example of each label that may be left, and fits all examples again.

A rung holds if its examples explain all of the gradient above its floor. The last rung that holds
gives the examples that can be recovered.

References:
    Ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from leakgauge.analytic.unmixing_fit import Equations, Stage
from leakgauge.analytic.unmixing_starts import FAR, relative_weights
from leakgauge.analytic.whitening import Basis, White, basis

FACTOR = 4.0
"""Factor by which the floor falls from rung to rung."""
KEEP = 6
"""Solutions kept from rung to rung."""
HOLDS = 20.0
"""A rung holds up to this squared residual for each degree of freedom, in units of the floor."""
MISSED = 6
"""The climb ends after this number of consecutive rungs that do not hold."""
EXTRA = 3
"""Number of examples that a rung may add beyond its number of directions."""
LOOSE, TIGHT = Stage(1e-2, 1e-2), Stage(1e-6, 1e-2)
"""Weights of the first and of the second fit of a rung."""
DRAWN = 256
"""Number of random places (coordinates) for one more example of a label. The best EACH of them are tried."""
EACH = 6
"""Number of places tried for one more example of a label."""
TRIED = 16
"""Labels tried for one more example: the labels with the largest residual."""
GRID = 41
"""Number of distances from the center at which places are drawn."""
REACH = 20.0
"""Largest loudness of a new example, as a multiple of the floor."""

Candidate = tuple[Tensor, Tensor]
"""Coordinates q (n, K) and labels (n,)."""


@dataclass(frozen=True, eq=False)
class Rung:
    """The best solutions at one floor.

    Args:
        space: The row space at this floor. On the last rung the floor is the layer's own noise.
        candidates: Coordinates and labels of the solutions, best first.
        misfits: Misfits of the solutions.
    """

    space: Basis
    candidates: list[Candidate]
    misfits: list[float]

    @property
    def holds(self) -> bool:
        """Whether the best solution explains all of the gradient above the floor."""
        return bool(self.misfits) and self.misfits[0] <= HOLDS


def climb(white: White, counts: Tensor | None, generator: torch.Generator) -> Iterator[Rung]:
    """Yield rungs from the loudest example down to the layer's own noise. `counts` (C,): labels, if known."""
    floor = float((white.whole / white.columns).square().mean(1).sqrt().max())
    # Solutions pass from basis to basis as features, in the units of their columns.
    carried: list[Candidate] = [(white.right[:0].new_zeros(0, len(white.columns)), _none())]
    last, missed = False, 0
    while not last and missed < MISSED:
        floor /= FACTOR
        last = floor < float(white.rows.min()) / FACTOR
        seen = white if last else with_floor(white, floor)
        space = basis(seen, seen.rank)
        candidates = [(space.on_constraint(h @ space.right.T), labels) for h, labels in carried]
        rung = _rung(space, candidates, counts, floor, generator)
        if not rung.candidates:
            return
        yield rung
        missed = 0 if rung.holds else missed + 1
        carried = [(q @ space.right, labels) for q, labels in rung.candidates]


def _none() -> Tensor:
    """Return an empty tensor of labels."""
    return torch.zeros(0, dtype=torch.long)


def with_floor(white: White, floor: float) -> White:
    """Return the same gradient, with noise of size `floor` added to the assumed noise of each entry."""
    rows = (white.rows.square() + floor**2).sqrt()
    _, values, right = torch.linalg.svd(
        white.whole / rows.unsqueeze(1) / white.columns, full_matrices=False
    )
    return replace(white, rows=rows, values=values, right=right)


def _rung(
    space: Basis,
    candidates: list[Candidate],
    counts: Tensor | None,
    floor: float,
    generator: torch.Generator,
) -> Rung:
    """Return the solutions at this floor, extended by examples until they explain the gradient above it."""
    batch = space.white.layer.batch
    fitted = _Fitting(space)
    enough = [candidate for candidate in candidates if len(candidate[1]) >= space.rank]
    for q, labels in enough:
        fitted.add(q.unsqueeze(0), labels.unsqueeze(0))
    growing, beyond = candidates, 0
    while not fitted.holds and beyond < EXTRA:
        growing = [candidate for candidate in growing if len(candidate[1]) < batch]
        grown = _Fitting(space)
        for candidate in growing:
            grown.add(*_one_more(space, candidate, counts, floor, generator))
        growing = grown.best()
        if not growing:
            break
        if len(growing[0][1]) >= space.rank:
            fitted.join(grown)
            beyond += 1
    best = fitted.best()
    return Rung(space, best, fitted.misfits()[: len(best)])


class _Fitting:
    """Fits at one floor, ordered by misfit for each degree of freedom."""

    def __init__(self, space: Basis) -> None:
        self.space = space
        self.loose, self.tight = Equations(space, LOOSE), Equations(space, TIGHT)
        self.found: list[tuple[float, Candidate]] = []

    @property
    def holds(self) -> bool:
        """Whether any fit explains all of the gradient above the floor."""
        return any(misfit <= HOLDS for misfit, _ in self.found)

    def add(self, q: Tensor, labels: Tensor) -> None:
        """Fit starts (S, n, K) with labels (S, n)."""
        if not len(q):
            return
        fits = self.loose.descend(q, labels, 40)
        fits = fits.take(fits.cost.argsort()[: 3 * KEEP])
        fits = self.tight.descend(self.loose.outside(fits.points), fits.labels, 25)
        freedom = max(1, self.space.equations - fits.points[0].numel())
        points = self.tight.outside(fits.points)
        for cost, point, label in zip(fits.cost.tolist(), points, fits.labels, strict=True):
            self.found.append((cost / freedom, (point, label)))

    def join(self, other: _Fitting) -> None:
        """Add the fits of another."""
        self.found += other.found

    def best(self) -> list[Candidate]:
        """Return the best KEEP fits, at most two with the same multiset of labels."""
        self.found.sort(key=lambda found: found[0])
        kept: list[tuple[float, Candidate]] = []
        repeats: dict[tuple[int, ...], int] = {}
        for found in self.found:
            key = tuple(found[1][1].sort().values.tolist())
            if repeats.get(key, 0) < 2 and len(kept) < KEEP:
                repeats[key] = repeats.get(key, 0) + 1
                kept.append(found)
        self.found = kept
        return [candidate for _, candidate in kept]

    def misfits(self) -> list[float]:
        """Return the misfits of the fits of `best`, in its order."""
        return [misfit for misfit, _ in self.found]


def _one_more(
    space: Basis,
    candidate: Candidate,
    counts: Tensor | None,
    floor: float,
    generator: torch.Generator,
) -> Candidate:
    """Return starts (S, n + 1, K) and their labels. Each start has one more example, of a label that may be left."""
    q, labels = candidate
    white, link = space.white, space.white.link
    delta = link.value(q @ space.logits.T + white.offset) - link.targets[labels]
    rest = (white.whole / white.columns) @ space.right.T - delta.T @ q
    held = torch.bincount(labels, minlength=len(white.sums))
    free = torch.ones_like(held) if counts is None else (counts.long() > held).long()
    need = -(rest @ space.unit)
    wanted = need.masked_fill(free == 0, -torch.inf).argsort(descending=True)
    wanted = wanted[: min(TRIED, int(free.sum()))]
    starts, kinds = [], []
    for label in wanted.tolist():
        new = _places(space, rest, label, floor, generator)
        starts.append(torch.cat([q.expand(len(new), -1, -1), new.unsqueeze(1)], 1))
        more = torch.full((len(new), 1), label)
        kinds.append(torch.cat([labels.expand(len(new), -1), more], 1))
    if not starts:
        return q.new_zeros(0, len(q) + 1, space.rank), labels.new_zeros(0, len(q) + 1)
    return torch.cat(starts), torch.cat(kinds)


def _places(
    space: Basis, rest: Tensor, label: int, floor: float, generator: torch.Generator
) -> Tensor:
    """Return the coordinates (EACH, K) with the least residual for one more example of a label."""
    white, link = space.white, space.white.link

    def delta_of(q: Tensor) -> Tensor:
        delta: Tensor = link.value(q @ space.logits.T + white.offset) - link.targets[label]
        return delta

    # The directions lean towards outputs that make this label certain, because examples are quiet
    # there.
    sure = space.across(space.logits[label] - space.logits.mean(0))
    sure = sure / sure.norm().clamp_min(1e-300)
    shape = (DRAWN, space.rank)
    away = torch.randn(shape, generator=generator, dtype=torch.float64) / space.rank**0.5
    lean = torch.rand((DRAWN, 1), generator=generator, dtype=torch.float64)
    away = space.across(away) + 2 * lean * sure
    away = away / away.norm(dim=1, keepdim=True).clamp_min(1e-300)
    far = torch.linspace(0, FAR, GRID, dtype=torch.float64) * space.width
    line = space.center + far[:, None, None] * away
    aim = torch.rand((DRAWN,), generator=generator, dtype=torch.float64)
    aim = aim * torch.tensor(REACH).log() + torch.tensor(floor, dtype=torch.float64).log()
    loud = delta_of(line).norm(dim=2).clamp_min(1e-300).log()
    places = line[(loud - aim).abs().argmin(0), torch.arange(DRAWN)]
    total = rest[label] @ space.unit
    if total < 0:
        # If only one example has this label, its features are the label's row of the gradient,
        # divided by the row's sum.
        alone = rest[label] / total - space.center
        alone = alone / (alone.norm() / (FAR * space.width)).clamp_min(1)
        places = torch.cat([space.on_constraint(space.center + alone).unsqueeze(0), places])
    delta = delta_of(places)[:, space.rows]
    left = rest[space.rows] - delta.unsqueeze(2) * places.unsqueeze(1)
    left = left / space.noise.unsqueeze(1) * relative_weights(space, LOOSE.fraction)
    order = left.square().sum((1, 2)).argsort()[:EACH]
    if total < 0 and 0 not in order:
        order[-1] = 0
    chosen: Tensor = places[order]
    return chosen
