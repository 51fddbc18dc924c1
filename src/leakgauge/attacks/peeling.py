"""Peeling: a convolutional network's activations, read from the update layer by layer, then inverted. Ours.

    1. a linear layer with a bias tells its input    h = dW_i / db_i            (Phong et al. 2018; Zhu, Blaschko 2021)
    2. a convolution's gradient tells its input a, once dL/dz behind it is known    (`analytic.peeling`)
    3. an image with those activations    minimize over x   || a(x) - a ||^2 / || a - a(gray) ||^2 + priors

A max pool does not say where its values came from. There, 3 gives a rough image from what is known so far,
from which 2 finds the places. One or two layers up from the pool there are many times more activations known
than pixels, and 3 ends at the image itself: ReLU and pools, which stall gradient matching, do not matter.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from leakgauge.analytic.peeling import Known, peeled
from leakgauge.attacks.recursion import Beginning, Recursion, recursion_of
from leakgauge.core import (
    BaseAttack,
    Cost,
    Inapplicable,
    Observation,
    Plan,
    Progress,
    Reconstruction,
    Seeds,
    Status,
    image_grid,
    within,
)
from leakgauge.core.progress import no_objective
from leakgauge.core.ranges import Count, NonNegative
from leakgauge.core.verdicts import nothing_found
from leakgauge.inversion import (
    LBFGS,
    FeatureMatch,
    FixedLabels,
    GradientMatching,
    InRange,
    Parametrization,
    Smoothness,
    Spectral,
    Term,
    WarmStart,
)
from leakgauge.inversion.objectives.distances import MATCHED
from leakgauge.inversion.search.engine import Ready, ready

FITS = 1e-3
"""Relative misfit of a layer's gradient up to which the input that it tells is believed."""
ZERO = 1e-5
"""Share of the greatest activation below which one counts as 0."""
AMPLE = 1.25
"""Activations known for each value of the image, from which on priors would only be in the way."""
RESTARTS = 3
"""Descents at most to an image that the activations known ought to give."""
CLOSE = 1e-6
"""Squared relative distance of the activations that no local minimum has."""
EXACT = 1e-9
"""Squared relative distance of the activations at which the image is done: float32 tells no more."""


@dataclass(frozen=True, kw_only=True)
class Peeling(BaseAttack):
    """One image through convolutions, ReLU and max pools, exactly where each layer's gradient tells its input.

    `rough` steps for an image from few activations, under `smoothness`; `steps` for the last.
    """

    rough: Count = 80
    steps: Count = 600
    smoothness: NonNegative = 1.0

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"batch_size"})

    def prepare(self, observation: Observation) -> Plan | Inapplicable:
        if image_grid(observation.domain) is None:
            return Inapplicable("recovers images")
        found = recursion_of(observation)
        if isinstance(found, Inapplicable):
            return found
        # The term that asks for activations follows when they are known.
        none = torch.zeros(0, dtype=torch.long)
        descent = ready(self.matching(self.prior(), Spectral(), none, self.steps), observation)
        if isinstance(descent, Inapplicable):
            return descent
        pools = sum(layer.pool is not None for layer in found.chain.layers)
        return Plan(evaluations=self.most(pools), search=partial(self.search, found, descent))

    def prior(self, *, ample: bool = False) -> Term:
        """Return what is believed of the image. ample: so many activations are known that they decide it."""
        if ample or self.smoothness == 0:
            return InRange()
        return InRange() + self.smoothness * Smoothness()

    def matching(
        self, objective: Term, start: Parametrization, labels: Tensor, steps: int
    ) -> GradientMatching:
        """Return the descent to an image of known activations."""
        return GradientMatching(
            objective=objective,
            parametrization=start,
            labels=FixedLabels(labels),
            descent=LBFGS(steps=steps, history=100, line_search="strong_wolfe"),
            tolerance=EXACT,
        )

    @property
    def planned(self) -> int:
        """Return about how many evaluations a run takes, for its progress: a quarter more than the steps."""
        return (self.rough + RESTARTS * self.steps) * 5 // 4

    def most(self, pools: int) -> int:
        """Return the largest number of evaluations through a chain with so many max pools."""
        rough, last = (
            self.matching(self.prior(), Spectral(), torch.zeros(0), steps).budget
            for steps in (self.rough, self.steps)
        )
        # An image before each pool and one at the end, which is compared once if it is read.
        return (pools + 1) * max(rough, RESTARTS * last) + 1

    def search(
        self,
        found: Recursion,
        descent: Ready,
        seeds: Seeds,
        progress: Progress,
    ) -> Reconstruction:
        """Return the image that the activations tell."""
        beginnings = found.beginnings()
        labels = found.label_of(beginnings[0], seeds) if beginnings else None
        if labels is None:
            reason = "no label explains the last layer"
            return nothing_found(found.observation, Status.UNCONVERGED, reason)
        with seeds.isolated("peeling"):
            return _Peel(self, found, descent, labels, seeds, progress).run(beginnings[0])


class _Peel:
    """The state of one run: what is known, and the images that it gave so far."""

    def __init__(
        self,
        attack: Peeling,
        recursion: Recursion,
        descent: Ready,
        labels: Tensor,
        seeds: Seeds,
        progress: Progress,
    ) -> None:
        self.attack, self.recursion, self.descent = attack, recursion, descent
        self.observation, self.chain = recursion.observation, recursion.chain
        self.labels, self.seeds, self.progress = labels, seeds, progress
        self.clock = time.perf_counter()
        self.notes: list[str] = []
        self.guesses: list[Reconstruction] = []
        self.evaluations, self.done = 0, 0.0

    def run(self, start: Beginning) -> Reconstruction:
        """Go from the output to where the activations give the image, or no more is told. Return the best image."""
        known, seen = Known(start.place, start.features, start.delta), -1
        while known.place > 0:
            if self.chain.layers[known.place - 1].pool is not None:
                self.imagine(known)
                seen = known.place
                if self.matched:
                    break
            told = self.peel(known)
            if isinstance(told, Inapplicable):
                self.notes.append(f"went no further: {told}")
                break
            known = told
        if known.place == 0:
            self.read(known)
        elif seen != known.place:
            self.imagine(known)
        return self.best(self.guesses)

    @property
    def matched(self) -> bool:
        """Return whether the last image explains the update."""
        residual = self.guesses[-1].residual
        return residual is not None and residual <= MATCHED

    def peel(self, known: Known) -> Known | Inapplicable:
        """Return what is known one layer nearer to the image, or why the layer's gradient does not tell its input."""
        layer = self.chain.layers[known.place - 1]
        rough = None
        if layer.pool is not None:
            rough = self.observation.domain.to_unit(self.guesses[-1].inputs).double().cpu()
        dweight, noise = self.recursion.dweight(layer), self.recursion.rounding(layer)
        told = peeled(self.chain, known, dweight, rough, noise=noise)
        if isinstance(told, Inapplicable):
            return told
        if told.misfit > FITS:
            return Inapplicable(
                f"no input of {layer.name!r} fits its gradient (misfit {told.misfit:.0e})"
            )
        self.notes.append(f"input of {layer.name!r}: told to {told.misfit:.0e}")
        return told

    def imagine(self, known: Known) -> None:
        """Add an image with these activations, by descent: the best of a few if they should give it whole."""
        values = torch.Size(self.observation.domain.shape).numel()
        # What a ReLU gave as 0 says less than an equation, and is told to rounding only.
        told = int((known.x > ZERO * known.x.abs().max()).sum())
        ample = told >= AMPLE * values
        found: list[Reconstruction] = []
        for k, start in enumerate(self.starts(ample)):
            seeds = self.seeds.child(f"{known.place}/{k}")
            found.append(self.descended(known, start, ample, [*self.guesses, *found], seeds))
            if objective_of(found[-1]) <= CLOSE:
                break
        best = min(found, key=objective_of)
        trajectory = tuple(snapshot for guess in found for snapshot in guess.trajectory)
        spent = Cost(sum(guess.cost.evaluations for guess in found))
        self.guesses.append(replace(best, trajectory=trajectory, cost=spent))
        self.notes.append(
            f"image from the input of {self.chain.layers[known.place].name!r}: {told} activations for "
            f"{values} values, {best.message}"
        )

    def starts(self, ample: bool) -> list[Parametrization]:
        """Return where descents begin: at the last image, or anew. It is a single one if priors decide the image."""
        fresh = Spectral(center=0.5, noise=0.1)
        if not self.guesses:
            return [fresh] * (RESTARTS if ample else 1)
        unit = self.observation.domain.to_unit(self.guesses[-1].inputs)
        last = WarmStart(base=Spectral(center=0.5), initial=unit)
        return [last, *[fresh] * (RESTARTS - 1)] if ample else [last]

    def descended(
        self,
        known: Known,
        start: Parametrization,
        ample: bool,
        before: list[Reconstruction],
        seeds: Seeds,
    ) -> Reconstruction:
        """Return the image of one descent, with its trajectory as part of the whole. before: the images so far."""
        attack = self.attack
        steps = attack.steps if ample else attack.rough
        layer, told = self.chain.layers[known.place].name, known.x.reshape(1, -1)
        objective = FeatureMatch.of_one(self.observation, layer, told) + attack.prior(ample=ample)
        matching = attack.matching(objective, start, self.labels, steps)
        spent, since = self.evaluations, time.perf_counter() - self.clock

        def placed(guess: Reconstruction) -> Reconstruction:
            trajectory = tuple(
                replace(s, evaluations=s.evaluations + spent, seconds=s.seconds + since)
                for s in guess.trajectory
            )
            return replace(guess, trajectory=trajectory)

        # Several pools may ask for more descents than are planned.
        part = min(steps * 5 / 4 / attack.planned, 1 - self.done)
        telling = within(
            self.progress,
            self.done,
            part,
            evaluations=spent,
            finish=lambda guess: self.best([*before, placed(guess)]),
            best=partial(self.best, before) if before else None,
            objective=no_objective,
        )
        self.done += part
        descent = replace(self.descent, matching=matching).with_labels(self.labels)
        guess = descent.search(seeds, telling)
        self.evaluations += guess.cost.evaluations
        return placed(guess)

    def read(self, known: Known) -> None:
        """Add the image that the first layer's input is."""
        unit, inputs = self.recursion.inputs(known.x)
        residual = self.recursion.residual(unit, self.labels)
        self.evaluations += 1
        self.guesses.append(
            Reconstruction(
                inputs=inputs,
                targets=self.labels,
                found=torch.ones(1, dtype=torch.bool),
                status=Status.CONVERGED if residual <= MATCHED else Status.UNCONVERGED,
                message=f"the update is matched to {residual:.2g} of its norm",
                residual=residual,
                cost=Cost(1),
            )
        )

    def best(self, guesses: list[Reconstruction]) -> Reconstruction:
        """Return the image that matches the update best, with the trajectory of all."""
        chosen = min(guesses, key=residual_of)
        trajectory = tuple(snapshot for guess in guesses for snapshot in guess.trajectory)
        notes = (*self.notes, *chosen.notes)
        return replace(chosen, trajectory=trajectory, notes=notes, cost=Cost(self.evaluations))


def objective_of(guess: Reconstruction) -> float:
    """Return the objective of a descent's result, infinite if no iterate had a finite one."""
    return guess.objectives[0] if guess.objectives else math.inf


def residual_of(guess: Reconstruction) -> float:
    """Return the residual, infinite if there is none."""
    return math.inf if guess.residual is None else guess.residual
