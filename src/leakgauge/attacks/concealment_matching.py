"""DCS-2 undone: the private example and the one that conceals it, matched as the batch of two that they are. Ours.

    u = grad 1/3 (L(x, y) + mu L(x_c, y_c) + (1 - mu) L(x_c, y))  =  2/3 grad (L(x, y) + L(x_c, t)) / 2,
    t = mu y_c + (1 - mu) y,  as cross entropy is linear in targets
    y: granted, or the least entry of the last bias' gradient; y_c: the least of the others
    (x, x_c) by gradient matching of 3/2 u, of which x is kept

That the batch is larger, mu and the divisor are granted with the defense; y_c and x_c are not. The invented example is
not sought among those that the client would have invented: the update alone decides. Where the client's update was
projected, the weights are others, and the match stays incomplete.
"""

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
    within,
)
from leakgauge.federated.layers.targets import refused_targets
from leakgauge.inversion import FixedLabels
from leakgauge.inversion.search.engine import Ready, ready
from leakgauge.output import shared_head

DEFAULT = SecondOrder()


@dataclass(frozen=True, kw_only=True)
class ConcealmentMatching(BaseAttack):
    """`attack` on the pair of private and invented example; batch 1, models whose last layer has a bias."""

    attack: Recipe = DEFAULT

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"batch_size", "defense"})

    def prepare(self, observation: Observation) -> Plan | Inapplicable:
        concealed = effect(observation, ConcealedExamples)
        if concealed is None:
            return Inapplicable("the known defense conceals no example behind another")
        head, labels = shared_head(observation), observation.knowledge.labels
        if isinstance(head, Inapplicable) or head.dbias is None:
            return Inapplicable(
                "reads labels from the bias of a last linear layer, which the model lacks"
            )
        if observation.classes is None or (labels is not None and labels.ndim != 1):
            return Inapplicable("the invented example is told by its class: needs class labels")
        rows = head.weight.new_full((2, len(head.weight)), 1 / len(head.weight))
        like = observation.update.like
        reason = observation.not_one_example() or refused_targets(observation, rows.to(like))
        if reason is not None:
            return Inapplicable(reason)
        label, other = labels_of_pair(observation, head.dbias)
        targets = soft(label, other, concealed.mixing, observation.classes, like)
        matching = replace(self.attack.matching(), labels=FixedLabels(targets))
        pair = ready(matching, as_pair(observation, concealed))
        if isinstance(pair, Inapplicable):
            return pair
        return Plan(evaluations=matching.budget, search=partial(search_pair, pair, label, other))


def search_pair(
    pair: Ready, label: int, other: int, seeds: Seeds, progress: Progress
) -> Reconstruction:
    """Return the private example of a pair. label: its class. other: the class of the invented example."""

    def private(found: Reconstruction) -> Reconstruction:
        return replace(
            found,
            inputs=found.inputs[:1],
            targets=torch.tensor([label], device=found.inputs.device),
            found=found.found[:1],
            trajectory=(),
            notes=(*found.notes, f"concealment: the invented example is of class {other}"),
        )

    return private(pair.search(seeds, within(progress, 0.0, 1.0, finish=private)))


def labels_of_pair(observation: Observation, slopes: Tensor) -> tuple[int, int]:
    """Return the private example's class and the invented one's. slopes (C,): the gradient of the last bias."""
    granted = observation.knowledge.labels
    label = int(slopes.argmin() if granted is None else granted[0])
    left = slopes.clone()
    left[label] = torch.inf
    return label, int(left.argmin())


def as_pair(observation: Observation, concealed: ConcealedExamples) -> Observation:
    """The observation as one of the mean gradient of two examples."""
    scaled = observation.update.map(lambda t: t * (concealed.divisor / 2))
    knowledge = replace(
        observation.knowledge, batch_size=2, labels=None, label_counts=None, defense=None
    )
    return replace(observation, update=scaled, knowledge=knowledge)


def soft(label: int, other: int, mixing: float, classes: int, like: Tensor) -> Tensor:
    """Return targets (2, K) of the pair in the type of `like`, K the number of classes."""
    one, two = one_hot(torch.tensor([label, other]), classes).to(like)
    return torch.stack([one, mixing * two + (1 - mixing) * one])
