"""InstaHide's encryptions, as far as one batch undoes them. After Carlini et al.: Is Private Learning Possible with
Instance Encoding?, IEEE S&P 2021, whose first step is the absolute value: one-time signs hide nothing else.

    for coefficients drawn as the client draws them: encryptions x~ by gradient matching at the targets that they mean
    the least objective chooses;  c + |x~ - c| = c + |sum_j l_j x_j - c|

Left out: the paper then clusters many encryptions of each image, and solves for the images behind them. One batch
encrypts each of its images into as many mixtures as it has examples at most, and hides each sign once: the mixtures
stay mixed, and where an image is darker than c, its negative is seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from torch.nn import functional

from leakgauge.attacks.inverting_gradients import InvertingGradients
from leakgauge.attacks.recipe import Labeled, Recipe, label_first
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
    within,
)
from leakgauge.core.ranges import Count
from leakgauge.inversion.search.judgment import least_objective, objective_of

DEFAULT = InvertingGradients(steps=1000, tv=0.0)
"""Without total variation: encryptions are not smooth."""
NOTE = "instahide: absolute values of mixtures, not undone"


@dataclass(frozen=True, kw_only=True)
class InstaHideDecoding(BaseAttack):
    """`attack` at `draws` mixings of the labels; the best encryptions without their signs. Labels granted, or read."""

    attack: Recipe = DEFAULT
    draws: Count = 8

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"batch_size", "defense"})

    def prepare(self, observation: Observation) -> Plan | Inapplicable:
        mixing, labels = effect(observation, MixedExamples), observation.knowledge.labels
        if mixing is None or mixing.mirror is None:
            return Inapplicable("the known defense is not InstaHide")
        if observation.classes is None or (labels is not None and labels.ndim != 1):
            return Inapplicable("mixtures are told by their classes: needs class labels")
        matching = label_first(self.attack.matching(), observation)
        if isinstance(matching, Inapplicable):
            return matching
        decode = partial(without_signs, mixing.mirror)
        return Plan(
            evaluations=self.draws * matching.ready.matching.budget,
            search=partial(self.search, matching, mixing, observation.classes, decode),
        )

    def search(
        self,
        matching: Labeled,
        mixing: MixedExamples,
        classes: int,
        decode: Callable[[Reconstruction], Reconstruction],
        seeds: Seeds,
        progress: Progress,
    ) -> Reconstruction:
        """Return the encryptions at the draw of least objective, decoded."""
        labels, told = matching.labels.read(seeds)
        like = matching.ready.observation.update.like
        done: list[Reconstruction] = []

        def chosen(*more: Reconstruction) -> Reconstruction:
            best = decode(min([*done, *more], key=objective_of))
            return replace(best, targets=labels, notes=(*told, *best.notes, NOTE))

        for i in range(self.draws):
            weights = mixing.weights(len(labels), seeds=seeds.child(f"mixing/{i}")).to(like)
            targets = weights @ functional.one_hot(labels, classes).to(like)
            spent = sum(one.cost.evaluations for one in done)
            part = within(
                progress,
                i / self.draws,
                1 / self.draws,
                evaluations=spent,
                finish=chosen,
                best=chosen if done else None,
                objective=partial(least_objective, [objective_of(one) for one in done]),
            )
            done.append(matching.ready.with_labels(targets).search(seeds.child("encryption"), part))
        return replace(chosen(), cost=Cost(sum(one.cost.evaluations for one in done)))


def without_signs(mirror: float, found: Reconstruction) -> Reconstruction:
    """Return encryptions without their signs. mirror: the value c about which they are signed."""
    inputs = mirror + (found.inputs - mirror).abs()
    return replace(found, inputs=inputs, trajectory=(), diagnosis=None)
