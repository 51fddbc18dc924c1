"""The loudest examples first: softmax unmixing by a floor of noise that falls (deflation, as a homotopy).

A trained network leaves gradients of 1 and of 1e-8 in one batch. Above a high floor the loudest example
stands alone, and its one equation is easy; as the floor falls by FACTOR, the next come into sight, one more
example of each label that is left is tried, and all are fitted anew. A rung holds where the examples on it
explain all that is above its floor; the last that holds tells which examples can be read.
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
KEEP = 6
"""Solutions kept from rung to rung."""
HOLDS = 20.0
"""Squared residual for each degree of freedom, in units of the floor, at which a rung holds."""
MISSED = 6
"""Rungs in a row that do not hold, after which the climb ends."""
EXTRA = 3
"""Examples that a rung may add beyond its directions, before the next is tried."""
LOOSE, TIGHT = Stage(1e-2, 1e-2), Stage(1e-6, 1e-2)
DRAWN = 256
"""Places drawn for one more example of a label, of which EACH are tried."""
EACH = 6
TRIED = 16
"""Labels tried for one more example, those that the residual asks for most."""
GRID = 41
REACH = 20.0
"""An example that comes into sight is up to this many times as loud as the floor."""

Guess = tuple[Tensor, Tensor]
"""Coordinates q (n, K) and labels (n,)."""


@dataclass(frozen=True, eq=False)
class Rung:
    """The best guesses at one floor, best first, with their misfits; the last rung has the layer's own noise."""

    space: Basis
    guesses: list[Guess]
    misfits: list[float]

    @property
    def holds(self) -> bool:
        """Whether its best guess explains all above its floor."""
        return bool(self.misfits) and self.misfits[0] <= HOLDS


def climb(white: White, counts: Tensor | None, generator: torch.Generator) -> Iterator[Rung]:
    """Rungs from the loudest example down to the layer's own noise. counts (C,): labels, where known."""
    floor = float((white.whole / white.columns).square().mean(1).sqrt().max())
    # Columns of the features, in their own units: what guesses are carried from basis to basis in.
    carried: list[Guess] = [(white.right[:0].new_zeros(0, len(white.columns)), _none())]
    last, missed = False, 0
    while not last and missed < MISSED:
        floor /= FACTOR
        last = floor < float(white.rows.min()) / FACTOR
        seen = white if last else blurred(white, floor)
        space = basis(seen, seen.rank)
        guesses = [(space.on_constraint(h @ space.right.T), labels) for h, labels in carried]
        rung = _rung(space, guesses, counts, floor, generator)
        if not rung.guesses:
            return
        yield rung
        missed = 0 if rung.holds else missed + 1
        carried = [(q @ space.right, labels) for q, labels in rung.guesses]


def _none() -> Tensor:
    return torch.zeros(0, dtype=torch.long)


def blurred(white: White, floor: float) -> White:
    """The same gradient, as noise of `floor` on each entry would show it."""
    rows = (white.rows.square() + floor**2).sqrt()
    _, values, right = torch.linalg.svd(
        white.whole / rows.unsqueeze(1) / white.columns, full_matrices=False
    )
    return replace(white, rows=rows, values=values, right=right)


def _rung(
    space: Basis,
    guesses: list[Guess],
    counts: Tensor | None,
    floor: float,
    generator: torch.Generator,
) -> Rung:
    """The guesses fitted at this floor, with as many more examples as it takes to explain what is above it."""
    batch = space.white.layer.batch
    fitted = _Fitting(space)
    enough = [guess for guess in guesses if len(guess[1]) >= space.rank]
    for q, labels in enough:
        fitted.add(q.unsqueeze(0), labels.unsqueeze(0))
    growing, beyond = guesses, 0
    while not fitted.holds and beyond < EXTRA:
        growing = [guess for guess in growing if len(guess[1]) < batch]
        grown = _Fitting(space)
        for guess in growing:
            grown.add(*_one_more(space, guess, counts, floor, generator))
        growing = grown.best()
        if not growing:
            break
        if len(growing[0][1]) >= space.rank:
            fitted.join(grown)
            beyond += 1
    best = fitted.best()
    return Rung(space, best, fitted.misfits()[: len(best)])


class _Fitting:
    """Fits at one floor, compared by what is left for each degree of freedom."""

    def __init__(self, space: Basis) -> None:
        self.space = space
        self.loose, self.tight = Equations(space, LOOSE), Equations(space, TIGHT)
        self.found: list[tuple[float, Guess]] = []

    @property
    def holds(self) -> bool:
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
        """Take over the fits of another."""
        self.found += other.found

    def best(self) -> list[Guess]:
        """The best KEEP, at most two of one multiset of labels."""
        self.found.sort(key=lambda found: found[0])
        kept: list[tuple[float, Guess]] = []
        alike: dict[tuple[int, ...], int] = {}
        for found in self.found:
            key = tuple(found[1][1].sort().values.tolist())
            if alike.get(key, 0) < 2 and len(kept) < KEEP:
                alike[key] = alike.get(key, 0) + 1
                kept.append(found)
        self.found = kept
        return [guess for _, guess in kept]

    def misfits(self) -> list[float]:
        """Those of best(), in its order."""
        return [misfit for misfit, _ in self.found]


def _one_more(
    space: Basis,
    guess: Guess,
    counts: Tensor | None,
    floor: float,
    generator: torch.Generator,
) -> Guess:
    """Starts (S, n + 1, K) with one more example, of each label that may be left, and their labels."""
    q, labels = guess
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
    """Coordinates (EACH, K) for one more example of this label: about as loud as the floor, and like the rest."""
    white, link = space.white, space.white.link

    def delta_of(q: Tensor) -> Tensor:
        delta: Tensor = link.value(q @ space.logits.T + white.offset) - link.targets[label]
        return delta

    # From the center outward, leaning toward what makes this label sure: there examples are quiet.
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
        # Alone in its label's row, an example is that row over its sum.
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
