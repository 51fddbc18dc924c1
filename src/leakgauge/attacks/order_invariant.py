"""Local epochs in an order that nobody knows. Dimitrov, Balunovic, Konstantinov, Vechev: Data Leakage in
Federated Averaging, TMLR 2022.

    every epoch e has a batch X_e of its own, in its own order             (section 4.2)
    minimize   d(update(X_1, ..., X_E), update seen)  +  inv  mean_{e, f} ||g(X_e) - g(X_f)||^2     (section 4.3)
    g: the mean over the batch, whatever its order
    at the end each X_e is matched to X_1, image by image, and averaged    (section 4.4)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from leakgauge.attacks.inverting_gradients import InvertingGradients
from leakgauge.attacks.labels import plan_labels
from leakgauge.attacks.one_gradient import judged
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
    within,
)
from leakgauge.core.ranges import NonNegative
from leakgauge.federated.training.fedavg import EpochsApart, FedAvg
from leakgauge.inversion import Candidate, Term

APART = 1e6
"""The cost of matching two images of different labels."""


DEFAULT = InvertingGradients(steps=1000)


@dataclass(frozen=True)
class OrderInvariance(Term):
    """mean_{e, f} ||g(X_e) - g(X_f)||^2 / n over `epochs` equal parts of the candidate; g is the mean image."""

    epochs: int

    def __call__(self, candidate: Candidate) -> Tensor:
        parts = candidate.unit.reshape(self.epochs, -1, *candidate.unit.shape[1:])
        # The mean over all pairs of squared differences is twice the variance.
        return 2 * parts.mean(1).var(0, correction=0).mean()


@dataclass(frozen=True, kw_only=True)
class OrderInvariant(BaseAttack):
    """`attack` on one batch for each local epoch, whose mean images are held alike by `invariance`."""

    attack: Recipe = DEFAULT
    invariance: NonNegative = 1.0

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"batch_size"})

    def prepare(self, observation: Observation) -> Plan | Inapplicable:
        training = observation.training
        if not isinstance(training, FedAvg):
            return Inapplicable(
                "needs an update of local epochs (fedavg), and their hyperparameters"
            )
        if training.orders or training.epochs == 1:
            return Inapplicable(
                "the order is known, or there is one epoch: the batch simulates as it is"
            )
        if training.whole(observation.batch_size):
            return Inapplicable("every step sees the whole batch: its order does not matter")
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
        """Return the epochs' batches, found together and averaged."""
        labels, notes = matching.labels.read(seeds)
        orders, batch = seeds.generator("label order"), observation.batch_size
        each = [labels[torch.randperm(batch, generator=orders)] for _ in range(epochs)]

        def merged(found: Reconstruction) -> Reconstruction:
            unit = observation.domain.to_unit(found.inputs)
            one = replace(
                found,
                inputs=observation.domain.from_unit(averaged(unit, torch.cat(each), epochs)),
                targets=each[0],
                found=found.found[:batch],
                trajectory=(),
                cost=Cost(found.cost.evaluations + 1),
                notes=(*notes, *found.notes),
            )
            return judged(observation, one)

        ready = matching.ready.with_labels(torch.cat(each))
        return merged(ready.search(seeds, within(progress, 0.0, 1.0, finish=merged)))


def averaged(unit: Tensor, labels: Tensor, epochs: int) -> Tensor:
    """The mean (B, *shape) of each image of the first epoch and those matched to it; unit (E B, *shape)."""
    # Imported here: SciPy takes a third of a second.
    from scipy.optimize import linear_sum_assignment

    parts = unit.reshape(epochs, -1, *unit.shape[1:])
    kinds = labels.reshape(epochs, parts.shape[1], -1)
    total = parts[0].clone()
    for part, kind in zip(parts[1:], kinds[1:], strict=True):
        cost = torch.cdist(parts[0].flatten(1).double(), part.flatten(1).double())
        cost = cost + APART * (kinds[0].unsqueeze(1) != kind).any(-1)
        _, chosen = linear_sum_assignment(cost.cpu().numpy())
        total += part[torch.from_numpy(chosen)]
    return total / epochs
