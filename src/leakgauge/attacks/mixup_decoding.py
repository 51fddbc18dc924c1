"""Gradient matching against mixup: find the mixtures, then solve for the examples within them."""

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
    candidate_mixings,
    measure_ghosts,
    solve_mixtures,
    unmix,
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
    scale_progress,
)
from leakgauge.core.progress import Best
from leakgauge.core.ranges import Count, Whole
from leakgauge.inversion import WarmStart
from leakgauge.inversion.search.engine import Ready
from leakgauge.inversion.search.judgment import least_objective, objective_of

DEFAULT = SecondOrder()
STEP = 0.075
"""The first step of lambda: half the distance between two values of the grid."""
FRACTIONS = tuple(0.5 + 0.01 * i for i in range(6, 51))
"""Values of lambda at which the current mixtures are undone, to find the value with the fewest ghosts."""


@dataclass(frozen=True, kw_only=True)
class MixupDecoding(BaseAttack):
    r"""Run an attack for every candidate mixing of the labels under mixup, and unmix the best result.

    Use it on images when the client's known defense is mixup. The labels are granted, or recovered
    from the update first.

    .. math::

        \tilde x = M x, \qquad \tilde y = M y, \qquad M = \lambda I + (1 - \lambda) P

    Here :math:`x` are the examples and :math:`y` their targets, one row per example.
    :math:`\tilde x` and :math:`\tilde y` are the mixtures, :math:`P` is a permutation, and
    :math:`\lambda \in [1/2, 1]`. The attack works in three stages.

    1. For each set of pairs of classes and each :math:`\lambda` of a grid, gradient matching finds
       :math:`\tilde x` at the targets that this mixing implies. The result of least objective wins.
    2. Moves of :math:`\lambda` follow. Each tries a step down, a step up, and the value whose
       unmixed images share the fewest edges. The step halves each time. Each search starts from the
       current mixtures.
    3. The examples are :math:`x = M^{-1} \tilde x`. Several permutations :math:`P` may give the same
       pairs of classes. The attack takes the one that minimizes

    .. math::

        \sum_{i < j} \mathrm{cor}(d x_i, d x_j)^2 + \frac{100}{n} \, \mathrm{distance}(x, [0, 1]^n)^2

    Here :math:`d` takes the differences of neighboring pixels, cor is their correlation, and
    :math:`n` is the number of values.

    The targets cannot be variables of the search. Other targets, with other mixtures, explain the
    update equally well.

    Args:
        attack: Gradient matching that finds the mixtures of one mixing. It must match closely. A
            wrong mixing can explain an update to 1e-3 of its norm, and first-order attacks end
            there. The default is `SecondOrder`.
        scout: A cheaper gradient matching that tries all mixings first. None: `attack` tries all.
        shortlist: Number of pairings, at least 1, that `attack` takes from `scout`. Unused without
            `scout`.
        pairings: Largest number, at least 1, of permutations that give sets of pairs of classes. If
            there are more, this number is drawn at random. The default covers all permutations of
            four examples.
        moves: Number of moves of lambda, at least 0. The default is ours.
        undone: Largest number, at least 1, of permutations with the same labels that stage 3
            compares. The default is ours.

    References:
        Ours. We know of no publication of the whole method. The defense is from Zhang, Cisse,
        Dauphin, Lopez-Paz. mixup: Beyond Empirical Risk Minimization. ICLR 2018. arXiv:1710.09412.

    Example:
        >>> import leakgauge as lg
        >>> observation = lg.examples.observation(batch_size=2, defense=lg.defenses.Mixup())
        >>> quick = lg.attacks.InvertingGradients(steps=10)
        >>> attack = lg.attacks.MixupDecoding(attack=quick, pairings=1, moves=0)
        >>> found = attack(observation, seeds=lg.Seeds(0))
        >>> found.notes[0]
        'mixings tried: 1'
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
            return Inapplicable(
                f"it needs images, since it compares pairings by edges; found a {kind}"
            )
        if observation.classes is None or (labels is not None and labels.ndim != 1):
            return Inapplicable("it needs class labels, since pairs of classes define the mixings")
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
        """Return how many times `attack` runs if there are `tried` candidate mixings."""
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
        labels, notes = matching.labels.read(seeds)
        mixings = list(
            candidate_mixings(labels.tolist(), self.pairings, seeds.generator("pairings"))
        )
        search = _Search(
            ready=matching.ready,
            classes=classes,
            seeds=seeds,
            progress=progress,
            most=self.undone,
            notes=notes,
            planned=self._runs(len(mixings)),
        )
        if scout is None:
            for mixing in mixings:
                search.attempt(mixing)
        else:
            search.follow(scout.ready, mixings, self.shortlist)
        for i in range(self.moves if search.best[0].settled else 0):
            search.move(STEP / 2**i)
        return search.unmix()


@dataclass
class _Search:
    """The state of one run: the mixings tried so far, with their results.

    Args:
        ready: The attack without labels.
        classes: Number of classes.
        seeds: Each mixing is searched with the same seeds.
        progress: Takes the progress of the whole run.
        most: Largest number of pairings that unmixing compares.
        notes: Notes for the record on the labels.
        planned: Number of searches that the run expects.
        tried: Number of searches so far, those of the scout included.
        evaluations: Simulated updates so far.
        before: Builds the best reconstruction of the scout. None without a scout.
        objective_before: The scout's least objective. None without a scout.
        all: The objective, the mixing and the mixtures of each search.
    """

    ready: Ready
    classes: int
    seeds: Seeds
    progress: Progress
    most: int
    notes: tuple[str, ...]
    planned: int
    tried: int = 0
    evaluations: int = 0
    before: Best | None = None
    objective_before: float | None = None
    all: list[tuple[float, Mixing, Reconstruction]] = field(default_factory=list)

    @property
    def best(self) -> tuple[Mixing, Reconstruction]:
        """The mixing of least objective, and its mixtures."""
        _, mixing, found = min(self.all, key=lambda one: one[0])
        return mixing, found

    def unmix(self) -> Reconstruction:
        """Return the examples within the best mixtures."""
        return self.unmix_found(*self.best)

    def unmix_found(self, mixing: Mixing, found: Reconstruction) -> Reconstruction:
        """Return the examples within the mixtures found at a mixing."""
        domain = self.ready.observation.domain
        unit, notes = unmix(domain.to_unit(found.inputs), mixing, self.most)
        return replace(
            found,
            inputs=domain.from_unit(unit),
            targets=torch.tensor(mixing.major, device=unit.device),
            trajectory=(),
            diagnosis=None,
            cost=Cost(self.evaluations),
            notes=(*self.notes, *found.notes, f"mixings tried: {self.tried}", *notes),
        )

    def leading(self, count: int) -> list[tuple[Mixing, Reconstruction]]:
        """Return the best mixing and mixtures of each of the best `count` pairings."""
        found: dict[tuple[tuple[int, ...], ...], tuple[Mixing, Reconstruction]] = {}
        for _, mixing, mixtures in sorted(self.all, key=lambda one: one[0]):
            found.setdefault((mixing.major, mixing.minor), (mixing, mixtures))
        return list(found.values())[:count]

    def follow(self, scout: Ready, mixings: list[Mixing], count: int) -> None:
        """Try all mixings with `scout`, then the best `count` pairings with the attack."""
        whole = self.progress
        scouting = replace(
            self, ready=scout, progress=scale_progress(whole, 0.0, 0.5), planned=len(mixings)
        )
        for mixing in mixings:
            scouting.attempt(mixing)
        self.progress, self.before = scale_progress(whole, 0.5, 0.5), scouting.unmix
        self.objective_before = scouting.objective(None)
        self.tried, self.evaluations = scouting.tried, scouting.evaluations
        for mixing, start in scouting.leading(count):
            self.attempt(mixing, start)

    def attempt(self, mixing: Mixing, start: Reconstruction | None = None) -> None:
        """Search the mixtures of a mixing and keep the result. The search begins at the mixtures `start`, if given."""
        ready = self.ready.with_labels(mixing.targets(self.classes, self.like))
        if start is not None:
            unit = ready.observation.domain.to_unit(start.inputs)
            begin = WarmStart(base=ready.matching.parametrization, initial=unit)
            matching = replace(ready.matching, parametrization=begin, restarts=1)
            ready = replace(ready, matching=matching)

        def better(found: Reconstruction) -> Reconstruction:
            mixtures = [*self.all, (objective_of(found), mixing, found)]
            _, best, chosen = min(mixtures, key=lambda one: one[0])
            return self.unmix_found(best, chosen)

        part = scale_progress(
            self.progress,
            min(1.0, len(self.all) / self.planned),
            1 / self.planned if len(self.all) < self.planned else 0.0,
            evaluations=self.evaluations,
            finish=better,
            best=self.unmix if self.all else self.before,
            objective=self.objective,
        )
        found = ready.search(self.seeds.child("mixture"), part)
        self.tried += 1
        self.evaluations += found.cost.evaluations
        self.all = [*self.all, (objective_of(found), mixing, found)]

    def objective(self, under_way: float | None) -> float | None:
        """Return the least objective so far, that of the current search, `under_way`, included."""
        if not self.all and under_way is None:
            return self.objective_before
        return least_objective([value for value, _, _ in self.all], under_way)

    @property
    def like(self) -> Tensor:
        """A tensor of the update's type and device."""
        return self.ready.observation.update.like

    def move(self, step: float) -> None:
        """Try the best mixing with lambda a step smaller, with a step larger, and with the fewest ghosts."""
        mixing, found = self.best
        mixtures = self.ready.observation.domain.to_unit(found.inputs)
        order = next(allowed_pairings(mixing))
        apart = min(
            FRACTIONS,
            key=lambda fraction: measure_ghosts(solve_mixtures(mixtures, fraction, order)),
        )
        for fraction in (mixing.fraction - step, mixing.fraction + step, apart):
            if 0.5 <= fraction <= 1:
                self.attempt(replace(mixing, fraction=fraction), found)
