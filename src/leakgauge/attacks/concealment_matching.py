"""Gradient matching against DCS-2, a defense that adds invented examples to the batch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from leakgauge.attacks.recipe import Recipe
from leakgauge.attacks.second_order import SecondOrder
from leakgauge.core import (
    BaseAttack,
    ConcealedExamples,
    Inapplicable,
    Observation,
    Plan,
    Progress,
    Reconstruction,
    Seeds,
    effect,
    scale_progress,
)
from leakgauge.federated.layers.targets import refused_targets
from leakgauge.inversion import FixedLabels
from leakgauge.inversion.search.engine import Ready, ready
from leakgauge.output import shared_head

DEFAULT = SecondOrder()


@dataclass(frozen=True, kw_only=True)
class ConcealmentMatching(BaseAttack):
    r"""Reconstruct one private example together with the example that DCS-2 invents to conceal it.

    Use it against a known defense that adds invented examples, such as `DCS2`. It needs batch 1,
    class labels, and a last layer with a bias. Cross-entropy is linear in targets, so the update is
    the mean gradient of two examples:

    .. math::

        u &= \tfrac{1}{3} \nabla \left( L(x, y) + \mu L(x_c, y_c) + (1 - \mu) L(x_c, y) \right) \\
        &= \tfrac{2}{3} \nabla \, \tfrac{1}{2} \left( L(x, y) + L(x_c, t) \right) \\
        t &= \mu y_c + (1 - \mu) y

    Here :math:`u` is the update, :math:`L` the loss, and :math:`x` the private example of class
    :math:`y`. The invented example is :math:`x_c` of class :math:`y_c`, and :math:`\mu` is the
    defense's mixing. The gradient matching `attack` searches for both examples, with
    :math:`\tfrac{3}{2} u` as the observed gradient. Only the private example is returned.

    The known defense grants its mixing and its divisor, 3 or 2. Class :math:`y` is granted, or it is
    the class with the smallest entry in the gradient of the last bias. Class :math:`y_c` has the
    next smallest entry. The attack does not simulate how a client invents examples. If the client
    projected its gradient, the weights of the two losses differ, and the match stays incomplete.

    Args:
        attack: The gradient matching that runs on the pair. Its rule for labels is not used. The
            default is `SecondOrder`.

    References:
        Ours. The defense: Wu, Hayat, Zhou, Harandi. Concealing Sensitive Samples against Gradient
        Leakage in Federated Learning. AAAI 2024. arXiv:2209.05724.

    Example:
        >>> import leakgauge as lg
        >>> defense = lg.defenses.DCS2(steps=2)
        >>> observation = lg.examples.observation(batch_size=1, defense=defense)
        >>> quick = lg.attacks.SecondOrder(warm=1, iterations=5, stages=1)
        >>> attack = lg.attacks.ConcealmentMatching(attack=quick)
        >>> attack(observation, seeds=lg.Seeds(0)).inputs.shape
        torch.Size([1, 1, 8, 8])
    """

    attack: Recipe = DEFAULT

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"batch_size", "defense"})

    def prepare(self, observation: Observation) -> Plan | Inapplicable:
        concealed = effect(observation, ConcealedExamples)
        if concealed is None:
            return Inapplicable("the known defense invents no examples to conceal private ones")
        head, labels = shared_head(observation), observation.knowledge.labels
        if isinstance(head, Inapplicable) or head.dbias is None:
            return Inapplicable(
                "needs a last linear layer with a bias, to recover labels from: the model has none"
            )
        if observation.classes is None or (labels is not None and labels.ndim != 1):
            return Inapplicable("needs class labels, to recover the class of the invented example")
        rows = head.weight.new_full((2, len(head.weight)), 1 / len(head.weight))
        like = observation.update.like
        reason = observation.not_one_example() or refused_targets(observation, rows.to(like))
        if reason is not None:
            return Inapplicable(reason)
        label, other = labels_of_pair(observation, head.dbias)
        targets = targets_of_pair(label, other, concealed.mixing, observation.classes, like)
        matching = replace(self.attack.matching(), labels=FixedLabels(targets))
        pair = ready(matching, as_pair(observation, concealed))
        if isinstance(pair, Inapplicable):
            return pair
        return Plan(evaluations=matching.budget, search=partial(search_pair, pair, label, other))


def search_pair(
    pair: Ready, label: int, other: int, seeds: Seeds, progress: Progress
) -> Reconstruction:
    """Return the reconstruction of the private example.

    Args:
        pair: The gradient matching of the pair.
        label: The class of the private example.
        other: The class of the invented example.
        seeds: The seeds of the search.
        progress: The callback that receives the progress.
    """

    def private(found: Reconstruction) -> Reconstruction:
        return replace(
            found,
            inputs=found.inputs[:1],
            targets=torch.tensor([label], device=found.inputs.device),
            found=found.found[:1],
            trajectory=(),
            notes=(*found.notes, f"concealment: the invented example is of class {other}"),
        )

    return private(pair.search(seeds, scale_progress(progress, 0.0, 1.0, finish=private)))


def labels_of_pair(observation: Observation, slopes: Tensor) -> tuple[int, int]:
    """Return the class of the private example, and that of the invented one.

    Args:
        observation: The observation, which may grant the private label.
        slopes: The gradient (K,) of the last bias, K the number of classes.
    """
    granted = observation.knowledge.labels
    label = int(slopes.argmin() if granted is None else granted[0])
    left = slopes.clone()
    left[label] = torch.inf
    return label, int(left.argmin())


def as_pair(observation: Observation, concealed: ConcealedExamples) -> Observation:
    """Return the observation, scaled and described as the mean gradient of two examples."""
    scaled = observation.update.map(lambda t: t * (concealed.divisor / 2))
    knowledge = replace(
        observation.knowledge, batch_size=2, labels=None, label_counts=None, defense=None
    )
    return replace(observation, update=scaled, knowledge=knowledge)


def targets_of_pair(label: int, other: int, mixing: float, classes: int, like: Tensor) -> Tensor:
    """Return the targets (2, K) of the pair with the dtype and device of `like`, K the number of classes."""
    one, two = one_hot(torch.tensor([label, other]), classes).to(like)
    return torch.stack([one, mixing * two + (1 - mixing) * one])
