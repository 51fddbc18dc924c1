"""The surrogate model. Zhu, Yao, Hong: Surrogate Model Extension (SME): A Fast and Accurate Weight Update
Attack on Federated Learning, ICML 2023.

    w^ = alpha w_start + (1 - alpha) w_end,   0 <= alpha <= 1
    minimize over x, alpha   1 - <grad L(w^; x, y), w_start - w_end> / (||.|| ||.||)  +  tv TV(x)

One gradient a step, whatever the number of local steps, and no local hyperparameter is needed. The paper
steps in x and alpha at once; here they take turns: alpha is the best of a grid after each stage of x.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from leakgauge.attacks.inverting_gradients import InvertingGradients
from leakgauge.attacks.labels import plan_labels_over_steps
from leakgauge.attacks.one_gradient import judged
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
    within,
)
from leakgauge.core.progress import Best
from leakgauge.core.ranges import Count
from leakgauge.federated.layers.dropout import mean_network
from leakgauge.federated.training.local_steps import interpolated
from leakgauge.inversion import Candidate, Cosine, FixedLabels, GradientMatching, WarmStart
from leakgauge.inversion.search.engine import Ready
from leakgauge.inversion.simulation.simulator import simulator

MIDDLE = 0.5
"""The first alpha."""
SHARES = tuple(i / 10 for i in range(11))
"""The alphas that are compared."""


DEFAULT = InvertingGradients(steps=1000)


@dataclass(frozen=True, kw_only=True)
class SurrogateModel(BaseAttack):
    """`attack` at a model between the two that are known, `stages` times, alpha chosen anew after each."""

    attack: Recipe = DEFAULT
    stages: Count = 4

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"batch_size"})

    def matching(self) -> GradientMatching:
        """One stage."""
        return self.attack.matching()

    def prepare(self, observation: Observation) -> Plan | Inapplicable:
        if observation.training.kind == "gradient":
            return Inapplicable("the update is one gradient: there is no end model")
        known = mean_network(observation)
        first = label_if_needed(
            self.matching(), interpolated(known, MIDDLE), plan_labels_over_steps(known)
        )
        if isinstance(first, Inapplicable):
            return first
        later = replace(self.matching(), restarts=1).budget + len(SHARES)
        return Plan(
            evaluations=self.matching().budget + (self.stages - 1) * later + 1,
            search=partial(self.search, known, first),
        )

    def search(
        self, observation: Observation, first: Labeled | Ready, seeds: Seeds, progress: Progress
    ) -> Reconstruction:
        """Return the result of the last stage."""
        stage, notes = settle(first, seeds)
        shares, spent = [MIDDLE], 0
        best: Best | None = None
        for k in range(self.stages):
            done = partial(finished, observation, notes, tuple(shares), spent)
            part = within(
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
            spent += found.cost.evaluations + len(SHARES)
            unit, targets = observation.domain.to_unit(found.inputs), found.targets
            shares.append(nearest(observation, unit, targets))
            matching = self.later(stage.matching, unit)
            stage = Ready.of(matching, interpolated(observation, shares[-1]), FixedLabels(targets))
        return done(found)

    def later(self, last: GradientMatching, unit: Tensor) -> GradientMatching:
        """Return the stage after `last`, from its result (B, *shape) in unit coordinates."""
        start = WarmStart(base=last.parametrization, initial=unit)
        return replace(self.matching(), restarts=1, parametrization=start)


def finished(
    observation: Observation,
    notes: tuple[str, ...],
    shares: tuple[float, ...],
    spent: int,
    found: Reconstruction,
) -> Reconstruction:
    """Return the result of a stage as that of the whole attack. spent: evaluations before the stage."""
    note = "alpha: " + ", ".join(f"{fraction:g}" for fraction in shares)
    return replace(
        judged(observation, found),
        cost=Cost(spent + found.cost.evaluations),
        notes=(*notes, *found.notes, note),
    )


def nearest(observation: Observation, unit: Tensor, targets: Tensor) -> float:
    """Return the alpha at which inputs (B, *shape) in unit coordinates explain the update's direction best."""
    values = []
    for fraction in SHARES:
        seen = interpolated(observation, fraction)
        simulated = simulator(seen, create_graph=False)(unit, targets)
        candidate = Candidate(unit, targets, simulated, seen.update.tensors)
        values.append(float(Cosine()(candidate)))
    return SHARES[int(torch.tensor(values).argmin())]
