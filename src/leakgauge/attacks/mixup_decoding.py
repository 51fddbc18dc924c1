"""Mixup undone. Ours; we know of no publication of the whole.

    mixtures x~ = M x,  targets y~ = M y,    M = lambda I + (1 - lambda) P,  P a permutation, lambda in [1/2, 1]
    for pairs of classes and lambda on a grid: x~ by gradient matching at the targets that they mean;
    the least objective chooses, then lambda is moved by ever smaller steps, and to where the images within the
    mixtures at hand share the least; each move from those mixtures
    x = M^-1 x~,    of all P with these pairs of classes, that of least
        sum_{i < j} cor(d x_i, d x_j)^2 + 100 distance(x, [0, 1]^n)^2 / n,   d: differences of neighboring pixels

Targets as free variables did not do: other targets explain an update as well, with other mixtures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from leakgauge.attacks.mixings import (
    GRID,
    Mixing,
    allowed_pairings,
    ghosts,
    mixings_of,
    solved,
    unmixed,
)
from leakgauge.attacks.recipe import Labeled, Recipe, label_first
from leakgauge.attacks.second_order import SecondOrder
from leakgauge.core import (
    BaseAttack,
    Cost,
    Inapplicable,
    MixedExamples,
    Observation,
    Plan,
    Progress,
    Reconstruction,
    Seeds,
    effect,
    image_grid,
    within,
)
from leakgauge.core.progress import Best
from leakgauge.core.ranges import Count, Whole
from leakgauge.inversion import WarmStart
from leakgauge.inversion.search.engine import Ready
from leakgauge.inversion.search.judgment import least_objective, objective_of

DEFAULT = SecondOrder()
STEP = 0.075
"""The first move of lambda: half the distance between two values of the grid."""
SHARES = tuple(0.5 + 0.01 * i for i in range(6, 51))
"""Values of lambda at which mixtures at hand are undone, to see where their images share the least."""


@dataclass(frozen=True, kw_only=True)
class MixupDecoding(BaseAttack):
    """`attack` at every mixing of the labels that comes into question, and the best mixtures undone.

    The attack must match closely: a wrong mixing explains an update to 1e-3 of its norm, and first order ends there.
    `scout`, where given, tries the mixings in its place, at less cost; `attack` then takes the best `shortlist`
    pairings.

    Labels are granted, or read first. At most `pairings` sets of pairs of classes are tried, drawn by chance where
    there are more: 24 are all of four examples. lambda is moved `moves` times. `undone`: the most permutations of
    equal labels that are compared.
    """

    attack: Recipe = DEFAULT
    scout: Recipe | None = None
    shortlist: Count = 3
    pairings: Count = 24
    moves: Whole = 4
    undone: Count = 1000

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"batch_size", "defense"})

    def prepare(self, observation: Observation) -> Plan | Inapplicable:
        mixing, labels = effect(observation, MixedExamples), observation.knowledge.labels
        if mixing is None or mixing.per_mixture != 2 or mixing.mirror is not None:
            return Inapplicable("the known defense is not mixup")
        if image_grid(observation.domain) is None:
            kind = observation.domain.kind
            return Inapplicable(f"it tells pairings apart by edges, which a {kind} lacks")
        if observation.classes is None or (labels is not None and labels.ndim != 1):
            return Inapplicable("mixtures are told by their classes: needs class labels")
        matching = label_first(self.attack.matching(), observation)
        if isinstance(matching, Inapplicable):
            return matching
        scout = None
        if self.scout is not None:
            scout = label_first(self.scout.matching(), observation, matching.labels)
        if isinstance(scout, Inapplicable):
            return scout
        tried = len(GRID) * min(self.pairings, math.factorial(min(observation.batch_size, 20)))
        scouted = 0 if scout is None else tried * scout.ready.matching.budget
        return Plan(
            evaluations=scouted + self._runs(tried) * matching.ready.matching.budget,
            search=partial(self.search, matching, scout, observation.classes),
        )

    def _runs(self, tried: int) -> int:
        """Return how often the attack runs if there are `tried` candidate mixings."""
        return (tried if self.scout is None else self.shortlist) + 3 * self.moves

    def search(
        self,
        matching: Labeled,
        scout: Labeled | None,
        classes: int,
        seeds: Seeds,
        progress: Progress,
    ) -> Reconstruction:
        """Return the examples within the mixtures of least objective."""
        labels, told = matching.labels.read(seeds)
        mixings = list(mixings_of(labels.tolist(), self.pairings, seeds.generator("pairings")))
        search = _Search(
            ready=matching.ready,
            classes=classes,
            seeds=seeds,
            progress=progress,
            most=self.undone,
            told=told,
            planned=self._runs(len(mixings)),
        )
        if scout is None:
            for mixing in mixings:
                search.attempt(mixing)
        else:
            search.follow(scout.ready, mixings, self.shortlist)
        for i in range(self.moves if search.best[0].settled else 0):
            search.move(STEP / 2**i)
        return search.unmixed()


@dataclass
class _Search:
    """The mixings tried so far, and the best of them."""

    ready: Ready
    classes: int
    seeds: Seeds
    progress: Progress
    most: int
    told: tuple[str, ...]
    planned: int
    tried: int = 0
    evaluations: int = 0
    before: Best | None = None
    objective_before: float | None = None
    all: list[tuple[float, Mixing, Reconstruction]] = field(default_factory=list)

    @property
    def best(self) -> tuple[Mixing, Reconstruction]:
        """The mixing of the least objective, and its mixtures."""
        _, mixing, found = min(self.all, key=lambda one: one[0])
        return mixing, found

    def unmixed(self) -> Reconstruction:
        """Return the examples within the best mixtures."""
        return self.undone(*self.best)

    def undone(self, mixing: Mixing, found: Reconstruction) -> Reconstruction:
        """Return the examples within mixtures."""
        domain = self.ready.observation.domain
        unit, notes = unmixed(domain.to_unit(found.inputs), mixing, self.most)
        return replace(
            found,
            inputs=domain.from_unit(unit),
            targets=torch.tensor(mixing.major, device=unit.device),
            trajectory=(),
            diagnosis=None,
            cost=Cost(self.evaluations),
            notes=(*self.told, *found.notes, f"mixings tried: {self.tried}", *notes),
        )

    def leading(self, count: int) -> list[tuple[Mixing, Reconstruction]]:
        """Return the best of each of the best `count` pairings."""
        found: dict[tuple[tuple[int, ...], ...], tuple[Mixing, Reconstruction]] = {}
        for _, mixing, guess in sorted(self.all, key=lambda one: one[0]):
            found.setdefault((mixing.major, mixing.minor), (mixing, guess))
        return list(found.values())[:count]

    def follow(self, scout: Ready, mixings: list[Mixing], count: int) -> None:
        """Attempt the best `count` pairings of those that `scout` found at all mixings."""
        whole = self.progress
        scouting = replace(
            self, ready=scout, progress=within(whole, 0.0, 0.5), planned=len(mixings)
        )
        for mixing in mixings:
            scouting.attempt(mixing)
        self.progress, self.before = within(whole, 0.5, 0.5), scouting.unmixed
        self.objective_before = scouting.objective(None)
        self.tried, self.evaluations = scouting.tried, scouting.evaluations
        for mixing, start in scouting.leading(count):
            self.attempt(mixing, start)

    def attempt(self, mixing: Mixing, start: Reconstruction | None = None) -> None:
        """Search the mixtures of a mixing, from those of another if they are given."""
        ready = self.ready.with_labels(mixing.targets(self.classes, self.like))
        if start is not None:
            guess = ready.observation.domain.to_unit(start.inputs)
            begin = WarmStart(base=ready.matching.parametrization, initial=guess)
            matching = replace(ready.matching, parametrization=begin, restarts=1)
            ready = replace(ready, matching=matching)

        def better(found: Reconstruction) -> Reconstruction:
            mixtures = [*self.all, (objective_of(found), mixing, found)]
            _, best, chosen = min(mixtures, key=lambda one: one[0])
            return self.undone(best, chosen)

        part = within(
            self.progress,
            min(1.0, len(self.all) / self.planned),
            1 / self.planned if len(self.all) < self.planned else 0.0,
            evaluations=self.evaluations,
            finish=better,
            best=self.unmixed if self.all else self.before,
            objective=self.objective,
        )
        found = ready.search(self.seeds.child("mixture"), part)
        self.tried += 1
        self.evaluations += found.cost.evaluations
        self.all = [*self.all, (objective_of(found), mixing, found)]

    def objective(self, under_way: float | None) -> float | None:
        """Return the objective at the best mixtures, from that of the search under way."""
        if not self.all and under_way is None:
            return self.objective_before
        return least_objective([value for value, _, _ in self.all], under_way)

    @property
    def like(self) -> Tensor:
        """A tensor of the update's type and device."""
        return self.ready.observation.update.like

    def move(self, step: float) -> None:
        """Try the best mixing with a lambda a step larger and smaller, and where its images share the least."""
        mixing, found = self.best
        mixtures = self.ready.observation.domain.to_unit(found.inputs)
        order = next(allowed_pairings(mixing))
        apart = min(SHARES, key=lambda fraction: ghosts(solved(mixtures, fraction, order)))
        for fraction in (mixing.fraction - step, mixing.fraction + step, apart):
            if 0.5 <= fraction <= 1:
                self.attempt(replace(mixing, fraction=fraction), found)
