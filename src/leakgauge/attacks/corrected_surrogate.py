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
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from leakgauge.attacks.labels import plan_labels_over_steps
from leakgauge.attacks.one_gradient import judge
from leakgauge.attacks.recipe import Labeled, Recipe, label_if_needed, settle
from leakgauge.attacks.vanishing_prior import VanishingPrior
from leakgauge.core import (
    BaseAttack,
    Cost,
    Inapplicable,
    LocalSteps,
    Observation,
    Plan,
    Progress,
    Reconstruction,
    Seeds,
    Snapshot,
    Tensors,
    Update,
    within,
)
from leakgauge.core.progress import no_objective
from leakgauge.core.ranges import Count, Fraction
from leakgauge.federated.layers.dropout import mean_network
from leakgauge.federated.training.fedsgd import with_orders
from leakgauge.federated.training.local_steps import interpolated, multiplier
from leakgauge.federated.training.withheld import is_withheld
from leakgauge.inversion import FixedLabels, GradientMatching, WarmStart, Window
from leakgauge.inversion.objectives.distances import relative_residual
from leakgauge.inversion.search.engine import Ready
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
    fraction: Fraction = 0.5

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"batch_size"})

    def prepare(self, observation: Observation) -> Plan | Inapplicable:
        training = observation.training
        if training.kind == "gradient":
            return Inapplicable("the update is one gradient: there is nothing to correct")
        if is_withheld(training) or not isinstance(training, LocalSteps):
            return Inapplicable(
                "needs an update of local steps (fedavg), and their hyperparameters"
            )
        known = mean_network(observation)
        coarse = interpolated(known, self.fraction)
        first = label_if_needed(self.stage(0), coarse, plan_labels_over_steps(known))
        if isinstance(first, Inapplicable):
            return first
        orders = self.asked(observation, training)
        later = replace(self.attack.matching(), restarts=1).budget
        corrections = self.stages * (1 + orders)
        return Plan(
            evaluations=self.attack.matching().budget + (self.stages - 1) * later + corrections,
            search=lambda seeds, progress: _Stages(self, known, coarse, orders, seeds).run(
                first, progress
            ),
        )

    def asked(self, observation: Observation, training: LocalSteps) -> int:
        """Return over how many orders of the examples a simulation is averaged."""
        known = observation.knowledge.order is not None or training.whole(observation.batch_size)
        return 1 if known else self.orders

    def stage(self, k: int) -> GradientMatching:
        """Return the attack as it is in stage k: its part of the changes with progress."""
        matching = self.attack.matching()
        part = Window(matching.objective, k / self.stages, (k + 1) / self.stages)
        return replace(matching, objective=part)

    def later(self, k: int, unit: Tensor) -> GradientMatching:
        """Return stage k from the inputs (B, *shape) of the stage before, in unit coordinates."""
        matching = self.stage(k)
        start = WarmStart(base=matching.parametrization, initial=unit)
        return replace(matching, restarts=1, parametrization=start)


class _Stages:
    """The stages of one run so far."""

    def __init__(
        self,
        attack: CorrectedSurrogate,
        observation: Observation,
        coarse: Observation,
        orders: int,
        seeds: Seeds,
    ) -> None:
        self.attack, self.observation, self.coarse = attack, observation, coarse
        self.orders, self.seeds, self.clock = orders, seeds, time.perf_counter()
        self.true = averaged(observation, orders, seeds.child("orders"))
        self.notes: tuple[str, ...] = ()
        self.results: list[tuple[float, Reconstruction]] = []
        self.trajectory: list[Snapshot] = []
        self.spent = 0

    def run(self, first: Labeled | Ready, progress: Progress) -> Reconstruction:
        """Return the result of the stage that explains the update best."""
        stage, self.notes = settle(first, self.seeds)
        total = self.attack.stages
        for k in range(total):
            part = within(
                progress,
                k / total,
                1 / total,
                evaluations=self.spent,
                finish=self.finished,
                objective=no_objective,
                best=self.best if self.results else None,
            )
            found = stage.search(self.seeds.child(f"stage/{k}"), part)
            update = self.update(found)
            self.add(found, update)
            if k == total - 1 or found.targets is None or update is None:
                break
            unit = self.observation.domain.to_unit(found.inputs)
            with self.seeds.isolated("true update"):
                goal = corrected(self.observation, self.coarse, update, unit, found.targets)
            later = self.attack.later(k + 1, unit)
            stage = Ready.of(later, goal, FixedLabels(found.targets))
        return self.best()

    def update(self, found: Reconstruction) -> Tensors | None:
        """Return the update of a result by the true local steps, or None if it has no labels."""
        if found.targets is None:
            return None
        unit = self.observation.domain.to_unit(found.inputs)
        with self.seeds.isolated("true update"):
            return self.true(unit, found.targets)

    def misfit(self, update: Tensors | None) -> float:
        """Return how far a result's true update is from the observed one, relative to its norm."""
        if update is None:
            return math.inf
        return float(relative_residual(update, self.observation.update.tensors))

    def add(self, found: Reconstruction, update: Tensors | None) -> None:
        """Remember the result of a stage."""
        misfit = self.misfit(update)
        self.spent += found.cost.evaluations + 1 + self.orders
        self.results.append((misfit, found))
        seconds = time.perf_counter() - self.clock
        self.trajectory.append(Snapshot(self.spent, misfit, found.inputs, seconds))

    def finished(self, found: Reconstruction) -> Reconstruction:
        """Return the best result, with `found` as that of the stage under way."""
        return self.chosen([*self.results, (self.misfit(self.update(found)), found)])

    def best(self) -> Reconstruction:
        """Return the best result of the stages that are done."""
        return self.chosen(self.results)

    def chosen(self, results: list[tuple[float, Reconstruction]]) -> Reconstruction:
        """Return the result whose true update is nearest, judge by the true local steps."""
        chosen = min(range(len(results)), key=lambda k: results[k][0])
        best = judge(self.observation, results[chosen][1])
        return replace(
            best,
            trajectory=tuple(self.trajectory),
            cost=Cost(self.spent),
            notes=(
                *self.notes,
                *best.notes,
                f"stage {chosen + 1} of {len(results)}, by residual",
            ),
        )


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
