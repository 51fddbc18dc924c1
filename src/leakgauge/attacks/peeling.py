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

import torch
from torch import Tensor

from leakgauge.analytic.chain import Chain, chain_of
from leakgauge.analytic.last_layer import rounding
from leakgauge.analytic.peeling import Known, peeled
from leakgauge.attacks.rgap import Beginning, beginnings, compared, label_of, shared, unstarted
from leakgauge.core import (
    BaseAttack,
    Cost,
    Inapplicable,
    Observation,
    Progress,
    Reconstruction,
    Seeds,
    Status,
    within,
)
from leakgauge.core.ranges import Count, NonNegative
from leakgauge.core.verdicts import nothing_found
from leakgauge.inversion import (
    LBFGS,
    FeatureMatch,
    GradientMatching,
    Guessed,
    InRange,
    Parametrization,
    Read,
    Smoothness,
    Spectral,
    Term,
)
from leakgauge.inversion.objectives.distances import MATCHED
from leakgauge.inversion.objectives.features import Headless

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

    def unsuited(self, observation: Observation) -> str | None:
        reason = observation.not_one_example()
        if reason is not None:
            return reason
        if len(observation.domain.shape) != 3:
            return "recovers images"
        chain = chain_of(observation.model, observation.domain)
        return chain.reason if isinstance(chain, Inapplicable) else unstarted(chain, observation)

    def evaluations(self, observation: Observation) -> int:
        # Line searches take a quarter more.
        return (self.rough + RESTARTS * self.steps) * 5 // 4

    def reconstruct(
        self, observation: Observation, *, seeds: Seeds, progress: Progress
    ) -> Reconstruction:
        chain = chain_of(observation.model, observation.domain)
        assert isinstance(chain, Chain), "unsuited() refuses this"
        found = beginnings(chain, observation)
        labels = label_of(observation, found[0], seeds) if found else None
        if labels is None:
            return nothing_found(
                observation, Status.UNCONVERGED, "no label explains the last layer"
            )
        with seeds.isolated("peeling"):
            return _Peel(self, observation, chain, labels, seeds, progress).run(found[0])


class _Peel:
    """The state of one run: what is known, and the images that it gave so far."""

    def __init__(
        self,
        attack: Peeling,
        observation: Observation,
        chain: Chain,
        labels: Tensor,
        seeds: Seeds,
        progress: Progress,
    ) -> None:
        self.attack, self.observation, self.chain = attack, observation, chain
        self.labels, self.seeds, self.progress = labels, seeds, progress
        self.clock = time.perf_counter()
        self.notes: list[str] = []
        self.guesses: list[Reconstruction] = []
        self.evaluations = 0

    def run(self, start: Beginning) -> Reconstruction:
        """From the output to where the activations give the image, or to where no more is told."""
        known, seen = Known(start.place, start.features, start.delta), -1
        while known.place > 0:
            if self.chain.links[known.place - 1].pool is not None:
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
        return self.best()

    @property
    def matched(self) -> bool:
        """Whether the last image explains the update."""
        residual = self.guesses[-1].residual
        return residual is not None and residual <= MATCHED

    def peel(self, known: Known) -> Known | Inapplicable:
        """One layer further towards the image, where its gradient tells its input."""
        link = self.chain.links[known.place - 1]
        dweight = shared(self.observation, f"{link.name}.weight")
        assert dweight is not None, "unstarted() refuses this"
        rough = None
        if link.pool is not None:
            rough = self.observation.domain.to_unit(self.guesses[-1].inputs).double().cpu()
        noise = rounding(self.observation.update.tensors[f"{link.name}.weight"]).shared
        told = peeled(self.chain, known, dweight, rough, noise=noise)
        if isinstance(told, Inapplicable):
            return told
        if told.misfit > FITS:
            return Inapplicable(
                f"no input of {link.name!r} fits its gradient (misfit {told.misfit:.0e})"
            )
        self.notes.append(f"input of {link.name!r}: told to {told.misfit:.0e}")
        return told

    def imagine(self, known: Known) -> None:
        """An image with these activations, by descent; the best of a few where they ought to give it whole."""
        values = torch.Size(self.observation.domain.shape).numel()
        # What a ReLU gave as 0 says less than an equation, and is told to rounding only.
        told = int((known.x > ZERO * known.x.abs().max()).sum())
        ample = told >= AMPLE * values
        found: list[Reconstruction] = []
        for k, start in enumerate(self.starts(ample)):
            found.append(
                self.descended(known, start, ample, self.seeds.child(f"{known.place}/{k}"))
            )
            if found[-1].objectives[0] <= CLOSE:
                break
        best = min(found, key=lambda guess: guess.objectives[0])
        course = tuple(snapshot for guess in found for snapshot in guess.course)
        spent = Cost(sum(guess.cost.evaluations for guess in found))
        self.guesses.append(replace(best, course=course, cost=spent))
        self.notes.append(
            f"image from the input of {self.chain.links[known.place].name!r}: {told} activations for "
            f"{values} values, {best.message}"
        )

    def starts(self, ample: bool) -> list[Parametrization]:
        """Where descents begin: at the last image, or anew; a single one where priors decide the image anyway."""
        fresh = Spectral(center=0.5, noise=0.1)
        if not self.guesses:
            return [fresh] * (RESTARTS if ample else 1)
        unit = self.observation.domain.to_unit(self.guesses[-1].inputs)
        last = Guessed(base=Spectral(center=0.5), guess=unit)
        return [last, *[fresh] * (RESTARTS - 1)] if ample else [last]

    def descended(
        self, known: Known, start: Parametrization, ample: bool, seeds: Seeds
    ) -> Reconstruction:
        """One descent, with its course as part of the whole."""
        attack = self.attack
        prior: Term = InRange()
        if not ample and attack.smoothness > 0:
            prior = prior + attack.smoothness * Smoothness()
        steps = attack.steps if ample else attack.rough
        matching = GradientMatching(
            objective=match(self.observation, self.chain, known) + prior,
            parametrization=start,
            labels=Read(self.labels),
            descent=LBFGS(steps=steps, history=100, line_search="strong_wolfe"),
            tolerance=EXACT,
        )
        before, since = self.evaluations, time.perf_counter() - self.clock
        planned = attack.evaluations(self.observation)
        guess = matching(
            self.observation,
            seeds=seeds,
            progress=within(self.progress, before / planned, steps / planned, evaluations=before),
        )
        self.evaluations += guess.cost.evaluations
        course = tuple(
            replace(s, evaluations=s.evaluations + before, seconds=s.seconds + since)
            for s in guess.course
        )
        return replace(guess, course=course)

    def read(self, known: Known) -> None:
        """The image that the first layer's input is."""
        inputs, targets, residual = compared(self.observation, self.chain, known.x, self.labels)
        assert residual is not None, "the labels are known"
        self.evaluations += 1
        self.guesses.append(
            Reconstruction(
                inputs=inputs,
                targets=targets,
                found=torch.ones(1, dtype=torch.bool),
                status=Status.CONVERGED if residual <= MATCHED else Status.UNCONVERGED,
                message=f"the update is matched to {residual:.2g} of its norm",
                residual=residual,
                cost=Cost(1),
            )
        )

    def best(self) -> Reconstruction:
        """The image that matches the update best, with the course of all."""
        chosen = min(self.guesses, key=lambda guess: residual_of(guess))
        course = tuple(snapshot for guess in self.guesses for snapshot in guess.course)
        spent = Cost(self.evaluations, time.perf_counter() - self.clock)
        notes = (*self.notes, *chosen.notes)
        return replace(chosen, course=course, notes=notes, cost=spent)


def residual_of(guess: Reconstruction) -> float:
    """The residual, for comparison."""
    return math.inf if guess.residual is None else guess.residual


def match(observation: Observation, chain: Chain, known: Known) -> FeatureMatch:
    """The distance to the activations known, relative to that of a gray image."""
    network = Headless.of(observation, chain.links[known.place].name)
    like = observation.update.like
    aim = known.x.reshape(1, -1).to(like)
    with torch.no_grad():
        gray = network(torch.full((1, *observation.domain.shape), 0.5).to(like))
    trust = 1 / (aim - gray).norm(dim=1).clamp_min(torch.finfo(like.dtype).tiny)
    return FeatureMatch(network, aim, trust)
