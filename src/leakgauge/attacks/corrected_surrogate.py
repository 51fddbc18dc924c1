"""The surrogate, corrected. Ours: matching at one model between the two that are known (Zhu et al. 2023) as the cheap
half of a defect correction (Stetter 1978, "The defect correction principle and discretization methods").

    F(x): the update by the true local steps        G(x) = -(sum of rates) grad L(w^; x), one gradient at
                                                    w^ = share w_start + (1 - share) w_end
    x_{k+1} = argmin over x   D( G(x), u* - (F(x_k) - G(x_k)) )  +  w_k prior(x)

A fixed point is a batch whose true local steps give what was observed, and yet no search goes through them: a
stage costs one plain local training beside its gradients, however many steps that has. Where the order of the
examples is not known, F is the mean over some orders drawn at random.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from leakgauge.attacks.labels import refused, settled_over_steps
from leakgauge.attacks.one_gradient import judged
from leakgauge.attacks.recipe import Recipe
from leakgauge.attacks.vanishing_prior import VanishingPrior
from leakgauge.core import (
    BaseAttack,
    Cost,
    LocalSteps,
    Observation,
    Progress,
    Reconstruction,
    Seeds,
    Snapshot,
    Tensors,
    Update,
    within,
)
from leakgauge.core.ranges import Count, Share
from leakgauge.federated.layers.dropout import mean_network
from leakgauge.federated.training.fedsgd import with_orders
from leakgauge.federated.training.local_steps import interpolated, multiplier
from leakgauge.federated.training.withheld import untold
from leakgauge.inversion import GradientMatching, Guessed, Read, Window
from leakgauge.inversion.objectives.distances import relative_residual
from leakgauge.inversion.simulation.simulator import Simulator, simulator

DEFAULT = VanishingPrior(steps=60)


@dataclass(frozen=True, kw_only=True)
class CorrectedSurrogate(BaseAttack):
    """`stages` runs of `attack` at one model, each against what the true steps of the last guess correct.

    A weight of the attack's objective that changes with progress does so over all stages. `orders`: over how
    many random orders of the examples a simulation is averaged where the order is not granted. The stage whose
    guess explains the update best is returned.
    """

    attack: Recipe = DEFAULT
    stages: Count = 20
    orders: Count = 4
    share: Share = 0.5

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"batch_size"})

    def unsuited(self, observation: Observation) -> str | None:
        if observation.training.kind == "gradient":
            return "the update is one gradient: there is nothing to correct"
        training = observation.training
        if untold(training) or not isinstance(training, LocalSteps):
            return "needs an update of local steps (fedavg), and their hyperparameters"
        return refused(self.attack.matching(), interpolated(observation, self.share))

    def evaluations(self, observation: Observation) -> int:
        later = replace(self.attack.matching(), trials=1).evaluations(observation)
        first = self.attack.evaluations(observation)
        corrections = self.stages * (1 + self.asked(observation))
        return first + (self.stages - 1) * later + corrections

    def asked(self, observation: Observation) -> int:
        """How many orders a simulation is averaged over."""
        training, knowledge = observation.training, observation.knowledge
        assert isinstance(training, LocalSteps), "unsuited() refuses this"
        known = knowledge.order is not None or training.whole(observation.batch_size)
        return 1 if known else self.orders

    def reconstruct(
        self, observation: Observation, *, seeds: Seeds, progress: Progress
    ) -> Reconstruction:
        clock, spent = time.perf_counter(), 0
        results: list[tuple[float, Reconstruction]] = []
        course: list[Snapshot] = []
        for misfit, found in self.descend(observation, seeds, progress):
            spent += found.cost.evaluations + 1 + self.asked(observation)
            results.append((misfit, found))
            course.append(Snapshot(spent, misfit, found.inputs, time.perf_counter() - clock))
        chosen = min(range(len(results)), key=lambda k: results[k][0])
        best = judged(observation, results[chosen][1])
        return replace(
            best,
            course=tuple(course),
            cost=Cost(spent, time.perf_counter() - clock),
            notes=(*best.notes, f"stage {chosen + 1} of {len(results)}, by residual"),
        )

    def descend(
        self, observation: Observation, seeds: Seeds, progress: Progress
    ) -> Iterator[tuple[float, Reconstruction]]:
        """What each stage found, and how far its true update is from the observed one."""
        observation = mean_network(observation)
        coarse = interpolated(observation, self.share)
        true = averaged(observation, self.asked(observation), seeds.child("orders"))
        matching, notes = settled_over_steps(self.stage(0), observation, seeds)
        seen = coarse
        for k in range(self.stages):
            found = matching(
                seen,
                seeds=seeds.child(f"stage/{k}"),
                progress=within(progress, k / self.stages, 1 / self.stages),
            )
            if found.targets is None:
                yield math.inf, found
                return
            unit = observation.domain.to_unit(found.inputs)
            with seeds.isolated("true update"):
                update = true(unit, found.targets)
                seen = corrected(observation, coarse, update, unit, found.targets)
            misfit = float(relative_residual(update, observation.update.tensors))
            yield misfit, replace(found, notes=(*notes, *found.notes))
            matching = self.later(k + 1, unit, found.targets)

    def stage(self, k: int) -> GradientMatching:
        """The attack as it is in stage k: its part of the changes with progress."""
        matching = self.attack.matching()
        part = Window(matching.objective, k / self.stages, (k + 1) / self.stages)
        return replace(matching, objective=part)

    def later(self, k: int, unit: Tensor, targets: Tensor) -> GradientMatching:
        """Stage k, from the guess of the last."""
        matching = self.stage(k)
        start = Guessed(base=matching.parametrization, guess=unit)
        return replace(matching, trials=1, labels=Read(targets), parametrization=start)


def corrected(
    observation: Observation, coarse: Observation, update: Tensors, unit: Tensor, targets: Tensor
) -> Observation:
    """The coarse observation with the defect of a guess, whose true update is `update`, taken off it."""
    scale = multiplier(observation)
    gradient = simulator(coarse, create_graph=False)(unit, targets)
    goal = {
        name: gradient[name] + (update[name] - seen) / scale
        for name, seen in observation.update.tensors.items()
    }
    return replace(coarse, update=Update(goal).detached())


def averaged(observation: Observation, count: int, seeds: Seeds) -> Simulator:
    """The true local steps, their update the mean over `count` orders of the examples; as given where 1."""
    if count == 1:
        return simulator(observation, create_graph=False)
    batch, training = observation.batch_size, observation.training
    draws = []
    for i in range(count):
        own = seeds.child(str(i))
        one = replace(observation, training=with_orders(training, batch, seeds=own))
        simulate = simulator(one, create_graph=False)
        draws.append((simulate, torch.randperm(batch, generator=own.generator("examples"))))

    def mean(unit: Tensor, targets: Tensor) -> Tensors:
        each = [simulate(unit[order], targets[order]) for simulate, order in draws]
        return {name: torch.stack([u[name] for u in each]).mean(0) for name in each[0]}

    return mean
