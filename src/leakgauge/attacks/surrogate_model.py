"""The surrogate model. Zhu, Yao, Hong: Surrogate Model Extension (SME): A Fast and Accurate Weight Update
Attack on Federated Learning, ICML 2023.

    w^ = alpha w_start + (1 - alpha) w_end,   0 <= alpha <= 1
    minimize over x, alpha   1 - <grad L(w^; x, y), w_start - w_end> / (||.|| ||.||)  +  tv TV(x)

One gradient a step, whatever the number of local steps, and no local hyperparameter is needed. The paper
steps in x and alpha at once; here they take turns: alpha is the best of a grid after each stage of x.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch

from leakgauge.attacks.inverting_gradients import InvertingGradients
from leakgauge.attacks.labels import refused, settled_over_steps
from leakgauge.attacks.one_gradient import judged
from leakgauge.attacks.recipe import Recipe
from leakgauge.core import BaseAttack, Cost, Observation, Progress, Reconstruction, Seeds, within
from leakgauge.core.ranges import Count
from leakgauge.federated.layers.dropout import mean_network
from leakgauge.federated.training.local_steps import interpolated
from leakgauge.inversion import Candidate, Cosine, GradientMatching, Guessed, Read
from leakgauge.inversion.simulation.simulator import simulator

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

    def unsuited(self, observation: Observation) -> str | None:
        if observation.training.kind == "gradient":
            return "the update is one gradient: there is no end model"
        return refused(self.matching(), interpolated(observation, 0.5))

    def evaluations(self, observation: Observation) -> int:
        later = replace(self.matching(), trials=1)
        first = self.matching().evaluations(observation)
        compared = len(SHARES) * (self.stages - 1)
        return first + (self.stages - 1) * later.evaluations(observation) + compared + 1

    def reconstruct(
        self, observation: Observation, *, seeds: Seeds, progress: Progress
    ) -> Reconstruction:
        observation = mean_network(observation)
        clock = time.perf_counter()
        share, spent = 0.5, 0
        matching, notes = settled_over_steps(self.matching(), observation, seeds)
        shares = [share]
        for stage in range(self.stages):
            seen = interpolated(observation, share)
            done = stage / self.stages
            found = matching(
                seen,
                seeds=seeds.child(f"stage/{stage}"),
                progress=within(progress, done, 1 / self.stages, evaluations=spent),
            )
            spent += found.cost.evaluations
            if stage == self.stages - 1 or found.targets is None:
                break
            share = nearest(observation, found)
            shares.append(share)
            spent += len(SHARES)
            matching = replace(
                self.matching(),
                trials=1,
                labels=Read(found.targets),
                parametrization=Guessed(
                    base=matching.parametrization, guess=observation.domain.to_unit(found.inputs)
                ),
            )
        cost = Cost(spent, time.perf_counter() - clock)
        note = "alpha: " + ", ".join(f"{share:g}" for share in shares)
        return replace(judged(observation, found), cost=cost, notes=(*notes, *found.notes, note))


def nearest(observation: Observation, found: Reconstruction) -> float:
    """The alpha at which the guess explains the update's direction best."""
    assert found.targets is not None, "the labels were read or granted"
    unit = observation.domain.to_unit(found.inputs)
    values = []
    for share in SHARES:
        seen = interpolated(observation, share)
        simulated = simulator(seen, create_graph=False)(unit, found.targets)
        candidate = Candidate(unit, found.targets, simulated, seen.update.tensors)
        values.append(float(Cosine()(candidate)))
    return SHARES[int(torch.tensor(values).argmin())]
