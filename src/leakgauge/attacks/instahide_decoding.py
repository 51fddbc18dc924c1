"""Gradient matching against InstaHide, up to the absolute values of its mixtures."""

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
    scale_progress,
)
from leakgauge.core.ranges import Count
from leakgauge.inversion.search.judgment import least_objective, objective_of

DEFAULT = InvertingGradients(steps=1000, tv=0.0)
"""The default attack. It has no total variation, since encryptions are not smooth."""
NOTE = "instahide: the examples are absolute values of mixtures. The mixtures are not undone"


@dataclass(frozen=True, kw_only=True)
class InstaHideDecoding(BaseAttack):
    r"""Reconstruct InstaHide's encryptions for several draws of its mixing, and remove the signs from the best.

    Use it against InstaHide, which trains on encryptions. An encryption is a mixture of examples
    whose values are mirrored at random about a value :math:`c`. The attack draws mixings as the
    client draws them, and matches gradients at the targets of each draw. It keeps the draw with the
    smallest objective. Then it computes

    .. math::

        c + |\tilde x - c| = c + \left| \sum_j \lambda_j x_j - c \right|

    Here :math:`\tilde x` is the reconstructed encryption of examples :math:`x_j` with coefficients
    :math:`\lambda_j`. Labels are granted, or recovered first.

    The result stays a mixture. Where a mixture is darker than :math:`c`, its photographic negative
    is returned. The paper goes on: it clusters many encryptions of each image, and solves for the
    images. One batch has too few encryptions for this. Each image is in at most as many mixtures as
    the batch has examples.

    Args:
        attack: The gradient matching that reconstructs encryptions. The default is
            `InvertingGradients` with 1000 steps and no total variation.
        draws: Number of draws of the mixing, at least 1. The default is ours.

    References:
        After Carlini, Deng, Garg, Jha, Mahloujifar, Mahmoody, Song, Thakurta, Tramèr. Is Private
        Learning Possible with Instance Encoding? IEEE Symposium on Security and Privacy 2021.
        arXiv:2011.05315. The absolute value is its first step.

    Example:
        >>> import leakgauge as lg
        >>> defense = lg.defenses.InstaHide(mixed=2)
        >>> observation = lg.examples.observation(batch_size=2, defense=defense)
        >>> quick = lg.attacks.InvertingGradients(steps=20, tv=0.0)
        >>> attack = lg.attacks.InstaHideDecoding(attack=quick, draws=1)
        >>> attack(observation, seeds=lg.Seeds(0)).inputs.shape
        torch.Size([2, 1, 8, 8])
    """

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
            return Inapplicable("needs class labels, to compute the targets of mixtures")
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
        """Return the encryptions of the draw with the smallest objective, without their signs."""
        labels, notes = matching.labels.read(seeds)
        like = matching.ready.observation.update.like
        done: list[Reconstruction] = []

        def chosen(*more: Reconstruction) -> Reconstruction:
            best = decode(min([*done, *more], key=objective_of))
            return replace(best, targets=labels, notes=(*notes, *best.notes, NOTE))

        for i in range(self.draws):
            weights = mixing.weights(len(labels), seeds=seeds.child(f"mixing/{i}")).to(like)
            targets = weights @ functional.one_hot(labels, classes).to(like)
            spent = sum(one.cost.evaluations for one in done)
            part = scale_progress(
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
    """Return encryptions without their signs.

    Args:
        mirror: The value c about which values are mirrored, in the data's units.
        found: The reconstructed encryptions.
    """
    inputs = mirror + (found.inputs - mirror).abs()
    return replace(found, inputs=inputs, trajectory=(), diagnosis=None)
