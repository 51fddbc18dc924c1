"""Attacks on local epochs whose order of examples is not known."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from leakgauge.attacks.inverting_gradients import InvertingGradients
from leakgauge.attacks.labels import plan_labels
from leakgauge.attacks.one_gradient import judge
from leakgauge.attacks.recipe import Labeled, Recipe, label_first
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
from leakgauge.core.ranges import NonNegative
from leakgauge.federated.training.fedavg import EpochsApart, FedAvg
from leakgauge.inversion import Candidate, Term

OTHER_LABEL = 1e6
"""Cost of assigning two images with different labels to each other. It exceeds any distance of two images."""


DEFAULT = InvertingGradients(steps=1000)


@dataclass(frozen=True)
class OrderInvariance(Term):
    """Mean squared difference of the mean images of two epochs.

    The mean runs over all pairs of epochs and over the values of an image.

    Args:
        epochs: Number of epochs E. The candidate `(E B, *shape)` holds one batch per epoch.
    """

    epochs: int

    def __call__(self, candidate: Candidate) -> Tensor:
        parts = candidate.unit.reshape(self.epochs, -1, *candidate.unit.shape[1:])
        # The mean squared difference over all pairs is twice the variance.
        return 2 * parts.mean(1).var(0, correction=0).mean()


@dataclass(frozen=True, kw_only=True)
class OrderInvariant(BaseAttack):
    r"""Match local epochs of unknown order: search for one batch per epoch, with equal mean images.

    Use it on FedAvg updates of several epochs if the hyperparameters are known but the order of the
    examples is not.

    .. math::

        \min_{X_1, \dots, X_E} \; d\big(u(X_1, \dots, X_E), u^*\big)
        + \lambda \, \frac{1}{E^2} \sum_{e, f} \frac{\|m(X_e) - m(X_f)\|^2}{n}

    Here :math:`X_e` is the batch of epoch :math:`e`, in its own order. The local training makes the
    update :math:`u` of these batches. The observed update is :math:`u^*`, and :math:`d` is the
    distance of `attack`. The mean example :math:`m(X_e)` of a batch does not depend on the order,
    :math:`n` is the number of its values, and :math:`\lambda` is `invariance`.

    At the end, the examples of each :math:`X_e` are assigned to those of :math:`X_1` and averaged.

    Args:
        attack: Gradient matching to which the second term is added. The default is
            `InvertingGradients` with 1000 steps.
        invariance: Weight of the second term, at least 0.

    References:
        Dimitrov, Balunović, Konstantinov, Vechev. Data Leakage in Federated Averaging. TMLR 2022,
        sections 4.2 to 4.4. arXiv:2206.12395.

    Example:
        >>> import leakgauge as lg
        >>> training = lg.FedAvg(epochs=2, minibatch=1, learning_rate=0.05)
        >>> observation = lg.examples.observation(batch_size=2, training=training)
        >>> quick = lg.attacks.InvertingGradients(steps=10)
        >>> attack = lg.attacks.OrderInvariant(attack=quick)
        >>> attack(observation, seeds=lg.Seeds(0)).inputs.shape
        torch.Size([2, 1, 8, 8])
    """

    attack: Recipe = DEFAULT
    invariance: NonNegative = 1.0

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"batch_size"})

    def prepare(self, observation: Observation) -> Plan | Inapplicable:
        training = observation.training
        if not isinstance(training, FedAvg):
            return Inapplicable(
                "it needs an update of local epochs (fedavg) with known hyperparameters"
            )
        if training.orders or training.epochs == 1:
            return Inapplicable(
                "the order is known, or there is one epoch: match the update directly"
            )
        if training.ignores_order(observation.batch_size):
            return Inapplicable(
                "every local step takes the whole batch, so that the order does not matter: match the update directly"
            )
        matching = self.attack.matching()
        objective = matching.objective + self.invariance * OrderInvariance(training.epochs)
        batch = observation.batch_size * training.epochs
        whole = replace(
            observation,
            training=EpochsApart.of(training),
            knowledge=replace(observation.knowledge, batch_size=batch),
        )
        found = label_first(replace(matching, objective=objective), whole, plan_labels(observation))
        if isinstance(found, Inapplicable):
            return found
        return Plan(
            evaluations=matching.budget + 1,
            search=partial(self.search, observation, found, training.epochs),
        )

    def search(
        self,
        observation: Observation,
        matching: Labeled,
        epochs: int,
        seeds: Seeds,
        progress: Progress,
    ) -> Reconstruction:
        """Return the average of the epochs' batches, which are searched together."""
        labels, notes = matching.labels.read(seeds)
        orders, batch = seeds.generator("label order"), observation.batch_size
        each = [labels[torch.randperm(batch, generator=orders)] for _ in range(epochs)]

        def merged(found: Reconstruction) -> Reconstruction:
            unit = observation.domain.to_unit(found.inputs)
            one = replace(
                found,
                inputs=observation.domain.from_unit(average_epochs(unit, torch.cat(each), epochs)),
                targets=each[0],
                found=found.found[:batch],
                trajectory=(),
                cost=Cost(found.cost.evaluations + 1),
                notes=(*notes, *found.notes),
            )
            return judge(observation, one)

        ready = matching.ready.with_labels(torch.cat(each))
        return merged(ready.search(seeds, scale_progress(progress, 0.0, 1.0, finish=merged)))


def average_epochs(unit: Tensor, labels: Tensor, epochs: int) -> Tensor:
    """Return the mean of each example of the first epoch and the examples of other epochs that are assigned to it.

    Args:
        unit: The examples of all E epochs in unit coordinates, `(E B, *shape)`.
        labels: Their labels, (E B,) or (E B, K).
        epochs: Number of epochs E.

    Returns:
        The means, `(B, *shape)`.
    """
    # The import of SciPy takes a third of a second, so that only runs that need it import it.
    from scipy.optimize import linear_sum_assignment

    parts = unit.reshape(epochs, -1, *unit.shape[1:])
    kinds = labels.reshape(epochs, parts.shape[1], -1)
    total = parts[0].clone()
    for part, kind in zip(parts[1:], kinds[1:], strict=True):
        cost = torch.cdist(parts[0].flatten(1).double(), part.flatten(1).double())
        cost = cost + OTHER_LABEL * (kinds[0].unsqueeze(1) != kind).any(-1)
        _, chosen = linear_sum_assignment(cost.cpu().numpy())
        total += part[torch.from_numpy(chosen)]
    return total / epochs
