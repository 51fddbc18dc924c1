"""InstaHide's encryptions, as far as one batch undoes them. After Carlini et al.: Is Private Learning Possible with
Instance Encoding?, IEEE S&P 2021, whose first step is the absolute value: one-time signs hide nothing else.

    for coefficients drawn as the client draws them: encryptions x~ by gradient matching at the targets that they mean
    the least objective chooses;  c + |x~ - c| = c + |sum_j l_j x_j - c|

Left out: the paper then clusters many encryptions of each image, and solves for the images behind them. One batch
encrypts each of its images into as many mixtures as it has examples at most, and hides each sign once: the mixtures
stay mixed, and where an image is darker than c, its negative is seen.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from leakgauge.attacks.inverting_gradients import InvertingGradients
from leakgauge.attacks.labels import labels_of, refused
from leakgauge.attacks.recipe import Recipe
from leakgauge.core import (
    BaseAttack,
    Cost,
    MixedExamples,
    Moment,
    Observation,
    Progress,
    Reconstruction,
    Seeds,
    effect,
)
from leakgauge.core.ranges import Count
from leakgauge.inversion import Read

DEFAULT = InvertingGradients(steps=1000, tv=0.0)
"""Without total variation: encryptions are not smooth."""


@dataclass(frozen=True, kw_only=True)
class InstaHideDecoding(BaseAttack):
    """`attack` at `draws` mixings of the labels; the best encryptions without their signs. Labels granted, or read."""

    attack: Recipe = DEFAULT
    draws: Count = 8

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"batch_size", "defense"})

    def unsuited(self, observation: Observation) -> str | None:
        mixing, labels = effect(observation, MixedExamples), observation.knowledge.labels
        if mixing is None or mixing.mirror is None:
            return "the known defense is not InstaHide"
        if observation.classes is None or (labels is not None and labels.ndim != 1):
            return "mixtures are told by their classes: needs class labels"
        return refused(self.attack.matching(), observation)

    def evaluations(self, observation: Observation) -> int:
        return self.draws * self.attack.evaluations(observation)

    def reconstruct(
        self, observation: Observation, *, seeds: Seeds, progress: Progress
    ) -> Reconstruction:
        clock = time.perf_counter()
        labels, told = labels_of(observation, seeds)
        found = [self._at_draw(i, labels, observation, seeds, progress) for i in range(self.draws)]
        best = min(
            found, key=lambda one: one.objectives[one.trial] if one.objectives else torch.inf
        )
        mixing = effect(observation, MixedExamples)
        assert mixing is not None, "unsuited() refuses this"
        assert mixing.mirror is not None, "unsuited() refuses this"
        spent = sum(one.cost.evaluations for one in found)
        return replace(
            best,
            inputs=mixing.mirror + (best.inputs - mixing.mirror).abs(),
            course=(),
            diagnosis=None,
            cost=Cost(spent, time.perf_counter() - clock),
            notes=(*told, *best.notes, "instahide: absolute values of mixtures, not undone"),
        )

    def _at_draw(
        self,
        draw: int,
        labels: Tensor,
        observation: Observation,
        seeds: Seeds,
        progress: Progress,
    ) -> Reconstruction:
        """The encryptions at one draw of the mixing."""
        mixing = effect(observation, MixedExamples)
        assert mixing is not None, "unsuited() refuses this"
        assert observation.classes is not None, "unsuited() refuses this"
        like = observation.update.like
        weights = mixing.weights(len(labels), seeds=seeds.child(f"mixing/{draw}")).to(like)
        targets = weights @ functional.one_hot(labels, observation.classes).to(like)
        matching = replace(self.attack.matching(), labels=Read(targets))
        found = matching(observation, seeds=seeds.child("encryption"))
        progress(Moment((draw + 1) / self.draws))
        return replace(found, targets=labels)
