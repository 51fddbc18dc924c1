"""Surrogate matching with defect correction: an attack on updates of several local steps."""

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
    scale_progress,
)
from leakgauge.core.progress import no_objective
from leakgauge.core.ranges import Count, Fraction
from leakgauge.federated.layers.dropout import mean_network
from leakgauge.federated.training.fedsgd import with_orders
from leakgauge.federated.training.local_steps import interpolate, multiplier
from leakgauge.federated.training.withheld import is_withheld
from leakgauge.inversion import FixedLabels, GradientMatching, WarmStart, Window
from leakgauge.inversion.objectives.distances import relative_residual
from leakgauge.inversion.search.engine import Ready
from leakgauge.inversion.simulation.simulator import Simulator, simulator

DEFAULT = VanishingPrior(steps=60)


@dataclass(frozen=True, kw_only=True)
class CorrectedSurrogate(BaseAttack):
    r"""Match a weight difference by one gradient at a surrogate model, and correct it by the true local steps.

    Use it on updates of several local steps (fedavg) with known hyperparameters. The search never
    differentiates through the local steps. Besides its search, a stage costs one plain local
    training, whatever the number of steps.

    .. math::

        x_{k+1} &= \operatorname{argmin}_x \; D\left(G(x), \; u^* - (F(x_k) - G(x_k))\right) + w_k \, p(x) \\
        G(x) &= -r \, \nabla L(\hat w; x)

    Here :math:`u^*` is the observed update, and :math:`F(x)` is the update by the true local steps.
    :math:`G(x)` is the surrogate: one gradient of the loss :math:`L` times the sum :math:`r` of the
    learning rates. The gradient is taken at :math:`\hat w = \varphi w_0 + (1 - \varphi) w_1`. The
    models before and after the local steps are :math:`w_0` and :math:`w_1`. The distance :math:`D`,
    the prior :math:`p` and its weight :math:`w_k` are those of `attack`. At a fixed point, the true
    local steps of the batch give the observed update.

    If the order of the examples is not granted, :math:`F` is a mean over random orders. If a weight
    of `attack` changes with progress, its schedule runs over all stages. The result of the stage
    that explains the update best is returned.

    Args:
        attack: The gradient matching that each stage runs. From the second stage on, it has one
            start, the result of the stage before. The default is `VanishingPrior` with 60 steps.
        stages: Number of stages, at least 1. The default is ours.
        orders: Number of random orders of the examples, at least 1, in the mean of :math:`F`. The
            default is ours.
        fraction: The fraction :math:`\varphi` of the start model in the surrogate model, at least 0
            and below 1. The default is the middle.

    References:
        Ours. The surrogate model: Zhu, Yao, Blaschko. Surrogate Model Extension (SME): A Fast and
        Accurate Weight Update Attack on Federated Learning. ICML 2023. arXiv:2306.00127. The
        correction: Stetter. The Defect Correction Principle and Discretization Methods. Numerische
        Mathematik, 1978.

    Example:
        >>> import leakgauge as lg
        >>> training = lg.FedAvg(epochs=2, minibatch=1, learning_rate=0.05)
        >>> observation = lg.examples.observation(batch_size=2, training=training)
        >>> quick = lg.attacks.VanishingPrior(steps=5)
        >>> attack = lg.attacks.CorrectedSurrogate(attack=quick, stages=2, orders=1)
        >>> attack(observation, seeds=lg.Seeds(0)).inputs.shape
        torch.Size([2, 1, 8, 8])
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
            return Inapplicable(
                "the update is one gradient: there are no local steps to correct for"
            )
        if is_withheld(training) or not isinstance(training, LocalSteps):
            return Inapplicable(
                "needs an update of local steps (fedavg) with known hyperparameters"
            )
        known = mean_network(observation)
        coarse = interpolate(known, self.fraction)
        first = label_if_needed(self.stage(0), coarse, plan_labels_over_steps(known))
        if isinstance(first, Inapplicable):
            return first
        orders = self.count_orders(observation, training)
        later = replace(self.attack.matching(), restarts=1).budget
        corrections = self.stages * (1 + orders)
        return Plan(
            evaluations=self.attack.matching().budget + (self.stages - 1) * later + corrections,
            search=lambda seeds, progress: _Stages(self, known, coarse, orders, seeds).run(
                first, progress
            ),
        )

    def count_orders(self, observation: Observation, training: LocalSteps) -> int:
        """Return the number of orders of the examples that a simulation averages over."""
        known = observation.knowledge.order is not None or training.ignores_order(
            observation.batch_size
        )
        return 1 if known else self.orders

    def stage(self, k: int) -> GradientMatching:
        """Return the gradient matching of stage k, with its part of the weights that change with progress."""
        matching = self.attack.matching()
        part = Window(matching.objective, k / self.stages, (k + 1) / self.stages)
        return replace(matching, objective=part)

    def later(self, k: int, unit: Tensor) -> GradientMatching:
        """Return the gradient matching of stage k.

        It starts from the inputs `unit` of the stage before, `(B, *shape)` in unit coordinates.
        """
        matching = self.stage(k)
        start = WarmStart(base=matching.parametrization, initial=unit)
        return replace(matching, restarts=1, parametrization=start)


class _Stages:
    """The stages of one run, and their results so far."""

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
        self.true = averaged_simulator(observation, orders, seeds.child("orders"))
        self.notes: tuple[str, ...] = ()
        self.results: list[tuple[float, Reconstruction]] = []
        self.trajectory: list[Snapshot] = []
        self.spent = 0

    def run(self, first: Labeled | Ready, progress: Progress) -> Reconstruction:
        """Return the result of the stage that explains the update best."""
        stage, self.notes = settle(first, self.seeds)
        total = self.attack.stages
        for k in range(total):
            part = scale_progress(
                progress,
                k / total,
                1 / total,
                evaluations=self.spent,
                finish=self.finished,
                objective=no_objective,
                best=self.best if self.results else None,
            )
            found = stage.search(self.seeds.child(f"stage/{k}"), part)
            update = self.update_of(found)
            self.add(found, update)
            if k == total - 1 or found.targets is None or update is None:
                break
            unit = self.observation.domain.to_unit(found.inputs)
            with self.seeds.isolated("true update"):
                goal = corrected(self.observation, self.coarse, update, unit, found.targets)
            later = self.attack.later(k + 1, unit)
            stage = Ready.of(later, goal, FixedLabels(found.targets))
        return self.best()

    def update_of(self, found: Reconstruction) -> Tensors | None:
        """Return the update of a result by the true local steps, or None if it has no labels."""
        if found.targets is None:
            return None
        unit = self.observation.domain.to_unit(found.inputs)
        with self.seeds.isolated("true update"):
            return self.true(unit, found.targets)

    def misfit(self, update: Tensors | None) -> float:
        """Return the distance of a result's true update to the observed one, relative to the observed one's norm."""
        if update is None:
            return math.inf
        return float(relative_residual(update, self.observation.update.tensors))

    def add(self, found: Reconstruction, update: Tensors | None) -> None:
        """Add the result of a stage, and the update that it gives by the true local steps."""
        misfit = self.misfit(update)
        self.spent += found.cost.evaluations + 1 + self.orders
        self.results.append((misfit, found))
        seconds = time.perf_counter() - self.clock
        self.trajectory.append(Snapshot(self.spent, misfit, found.inputs, seconds))

    def finished(self, found: Reconstruction) -> Reconstruction:
        """Return the best result, with `found` as the result of the current stage."""
        return self.chosen([*self.results, (self.misfit(self.update_of(found)), found)])

    def best(self) -> Reconstruction:
        """Return the best result of the stages that are done."""
        return self.chosen(self.results)

    def chosen(self, results: list[tuple[float, Reconstruction]]) -> Reconstruction:
        """Return the result whose true update is nearest, with the status that the true local steps allow."""
        chosen = min(range(len(results)), key=lambda k: results[k][0])
        best = judge(self.observation, results[chosen][1])
        return replace(
            best,
            trajectory=tuple(self.trajectory),
            cost=Cost(self.spent),
            notes=(
                *self.notes,
                *best.notes,
                f"stage {chosen + 1} of {len(results)} has the smallest residual",
            ),
        )


def corrected(
    observation: Observation, coarse: Observation, update: Tensors, unit: Tensor, targets: Tensor
) -> Observation:
    """Return the surrogate's observation, corrected by the defect at one batch.

    Args:
        observation: The observation of the true local steps.
        coarse: The observation as one gradient at the surrogate model.
        update: The update of the batch by the true local steps.
        unit: The batch `(B, *shape)` in unit coordinates.
        targets: The targets of the batch, (B,) or (B, K).
    """
    scale = multiplier(observation)
    gradient = simulator(coarse, create_graph=False)(unit, targets)
    goal = {
        name: gradient[name] + (update[name] - observed) / scale
        for name, observed in observation.update.tensors.items()
    }
    return replace(coarse, update=Update(goal).detached())


def averaged_simulator(observation: Observation, count: int, seeds: Seeds) -> Simulator:
    """Return a simulator of the true local steps. Its update is a mean over `count` random orders of the examples.

    With a count of 1, the order is that of the observation.
    """
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
