"""Matching of a weight difference by one gradient at a surrogate model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from leakgauge.attacks.inverting_gradients import InvertingGradients
from leakgauge.attacks.labels import plan_labels_over_steps
from leakgauge.attacks.one_gradient import judge
from leakgauge.attacks.recipe import Labeled, Recipe, label_if_needed, settle
from leakgauge.core import (
    BaseAttack,
    Cost,
    Inapplicable,
    Observation,
    Plan,
    Progress,
    Reconstruction,
    Seeds,
    scale_progress,
)
from leakgauge.core.progress import Best
from leakgauge.core.ranges import Count
from leakgauge.federated.layers.dropout import mean_network
from leakgauge.federated.training.local_steps import interpolate
from leakgauge.inversion import Candidate, Cosine, FixedLabels, GradientMatching, WarmStart
from leakgauge.inversion.search.engine import Ready
from leakgauge.inversion.simulation.simulator import simulator

MIDDLE = 0.5
"""The first value of alpha."""
FRACTIONS = tuple(i / 10 for i in range(11))
"""The values of alpha that are compared after each stage."""


DEFAULT = InvertingGradients(steps=1000)


@dataclass(frozen=True, kw_only=True)
class SurrogateModel(BaseAttack):
    r"""Match a weight difference by one gradient at a surrogate model between the start and the end model.

    Use it on updates of several local steps, above all if the hyperparameters are not known. Each
    step of the search costs one gradient, whatever the number of local steps.

    .. math::

        &\hat w = \alpha \, w_{\text{start}} + (1 - \alpha) \, w_{\text{end}} \\
        &\min_{x, \, \alpha \in [0, 1]} \;
        1 - \frac{\langle \nabla L(\hat w; x, y), \, w_{\text{start}} - w_{\text{end}} \rangle}
        {\|\nabla L(\hat w; x, y)\| \, \|w_{\text{start}} - w_{\text{end}}\|} + \lambda \, \mathrm{TV}(x)

    Here :math:`w` are weights, :math:`x` the examples, :math:`y` their labels, :math:`L` the loss
    and :math:`\lambda` the weight of total variation.

    The paper optimizes :math:`x` and :math:`\alpha` together. Here each stage optimizes :math:`x`
    with :math:`\alpha` fixed, then chooses the best :math:`\alpha` of a grid.

    Args:
        attack: Gradient matching that runs in each stage. The default is `InvertingGradients` with
            1000 steps, which has the objective above.
        stages: Number of stages, at least 1. The first one has alpha 0.5. The default is ours.

    References:
        Zhu, Yao, Blaschko. Surrogate Model Extension (SME): A Fast and Accurate Weight Update
        Attack on Federated Learning. ICML 2023. arXiv:2306.00127.

    Example:
        >>> import leakgauge as lg
        >>> training = lg.FedAvg(epochs=2, minibatch=1, learning_rate=0.05)
        >>> observation = lg.examples.observation(batch_size=2, training=training)
        >>> quick = lg.attacks.InvertingGradients(steps=10)
        >>> attack = lg.attacks.SurrogateModel(attack=quick, stages=2)
        >>> attack(observation, seeds=lg.Seeds(0)).inputs.shape
        torch.Size([2, 1, 8, 8])
    """

    attack: Recipe = DEFAULT
    stages: Count = 4

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"batch_size"})

    def matching(self) -> GradientMatching:
        """Return the matching of one stage."""
        return self.attack.matching()

    def prepare(self, observation: Observation) -> Plan | Inapplicable:
        if observation.training.kind == "gradient":
            return Inapplicable(
                "the update is one gradient, so there is no end model: run the inner attack itself"
            )
        known = mean_network(observation)
        first = label_if_needed(
            self.matching(), interpolate(known, MIDDLE), plan_labels_over_steps(known)
        )
        if isinstance(first, Inapplicable):
            return first
        later = replace(self.matching(), restarts=1).budget + len(FRACTIONS)
        return Plan(
            evaluations=self.matching().budget + (self.stages - 1) * later + 1,
            search=partial(self.search, known, first),
        )

    def search(
        self, observation: Observation, first: Labeled | Ready, seeds: Seeds, progress: Progress
    ) -> Reconstruction:
        """Return the result of the last stage."""
        stage, notes = settle(first, seeds)
        fractions, spent = [MIDDLE], 0
        best: Best | None = None
        for k in range(self.stages):
            done = partial(finish, observation, notes, tuple(fractions), spent)
            part = scale_progress(
                progress,
                k / self.stages,
                1 / self.stages,
                evaluations=spent,
                finish=done,
                best=best,
            )
            found = stage.search(seeds.child(f"stage/{k}"), part)
            if k == self.stages - 1 or found.targets is None:
                break
            best = partial(done, found)
            spent += found.cost.evaluations + len(FRACTIONS)
            unit, targets = observation.domain.to_unit(found.inputs), found.targets
            fractions.append(best_fraction(observation, unit, targets))
            matching = self.later(stage.matching, unit)
            stage = Ready.of(
                matching, interpolate(observation, fractions[-1]), FixedLabels(targets)
            )
        return done(found)

    def later(self, last: GradientMatching, unit: Tensor) -> GradientMatching:
        """Return the matching of the stage after `last`. It starts at examples `(B, *shape)` in unit coordinates."""
        start = WarmStart(base=last.parametrization, initial=unit)
        return replace(self.matching(), restarts=1, parametrization=start)


def finish(
    observation: Observation,
    notes: tuple[str, ...],
    fractions: tuple[float, ...],
    spent: int,
    found: Reconstruction,
) -> Reconstruction:
    """Return the result of a stage as the result of the whole attack.

    Args:
        observation: The observation with the true local training.
        notes: Notes for the record on the labels.
        fractions: The alpha of each stage so far.
        spent: Simulated updates before this stage.
        found: The result of the stage.
    """
    note = "alpha of each stage: " + ", ".join(f"{fraction:g}" for fraction in fractions)
    return replace(
        judge(observation, found),
        cost=Cost(spent + found.cost.evaluations),
        notes=(*notes, *found.notes, note),
    )


def best_fraction(observation: Observation, unit: Tensor, targets: Tensor) -> float:
    """Return the alpha at which examples `(B, *shape)` in unit coordinates explain the update's direction best."""
    values = []
    for fraction in FRACTIONS:
        surrogate = interpolate(observation, fraction)
        simulated = simulator(surrogate, create_graph=False)(unit, targets)
        candidate = Candidate(unit, targets, simulated, surrogate.update.tensors)
        values.append(float(Cosine()(candidate)))
    return FRACTIONS[int(torch.tensor(values).argmin())]
