"""The best of these methods that an observation allows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from leakgauge.analytic.label_recovery.base import (
    BiasedHead,
    LabelMethod,
    LabelRecovery,
    Reading,
    biased_head_of,
    many_steps,
    mean_gradient,
    sent,
    unfit,
    whole,
)
from leakgauge.analytic.label_recovery.bounds import Bounds, amplified, completed
from leakgauge.analytic.label_recovery.llg import LlgStar
from leakgauge.analytic.label_recovery.one_label import LabelOfOne
from leakgauge.analytic.label_recovery.stand_ins import Auxiliary
from leakgauge.analytic.label_recovery.tilting import Tilting
from leakgauge.analytic.last_layer import indistinct, label_counts, unmixed
from leakgauge.core import Inapplicable, Observation, Seeds
from leakgauge.core.ranges import Count, Positive
from leakgauge.federated.training.calibration import Calibrated, one_gradient


@dataclass(frozen=True, eq=False)
class _Known:
    """What is known of an update whose head has a bias, before anything is drawn.

    Args:
        shared: the observation as it was shared.
        seen: the observation as one of a gradient.
        head: the head of `seen`.
        mask: which entries of the head's gradient were shared, as in `sent`.
        exact: whether the update is one gradient, up to a known factor.
    """

    shared: Observation
    seen: Observation
    head: BiasedHead
    mask: Tensor | None
    exact: bool


@dataclass(frozen=True, kw_only=True)
class BestLabels(LabelMethod):
    """Read label counts by the first method that holds, whatever the batch size.

    1. What is granted. 2. `LabelOfOne` for batch 1. 3. `Tilting`, if its stand-ins explain the gradient, and differ in
    the counts by at most `agreed` of the batch, as in networks that are not trained far. Counts are then at least what
    is proven. 4. Softmax unmixing up to batch `unmixing`, if it proves every label. 5. What `Bounds` proves, and the
    labels that unmixing has found, completed by a prior. 6. Without a gradient of the bias, `LlgStar`.

    Weight differences are taken for mean gradients, in the middle of the way.

    Args:
        auxiliary: labeled examples of the adversary's own.
        unmixing: largest batch for softmax unmixing.
        agreed: largest difference of the stand-ins' counts, as a fraction of the batch.
    """

    auxiliary: Auxiliary | None = None
    unmixing: Count = 4
    agreed: Positive = 0.2

    def prepare(self, observation: Observation) -> Reading | Inapplicable:
        labels = observation.knowledge.labels
        if labels is not None and (labels.ndim > 1 or labels.is_floating_point()):
            return Inapplicable("the targets granted are soft: there are no counts of classes")
        counts = _granted(observation)
        if counts is not None:
            granted = LabelRecovery.of(counts, "granted", certified=True)
            return lambda seeds: granted
        seen, notes = _as_one(observation)
        one = LabelOfOne().prepare(observation)
        if not isinstance(one, Inapplicable):
            return _noted(one, *notes)
        head = biased_head_of(seen, uneven=True)
        if isinstance(head, Inapplicable):
            star = LlgStar().prepare(seen)
            missing = "the bias has no gradient"
            return head if isinstance(star, Inapplicable) else _noted(star, *notes, missing)
        known = _Known(observation, seen, head, sent(seen), one_gradient(observation))
        return _noted(partial(self.read, known), *notes)

    def read(self, given: _Known, seeds: Seeds) -> LabelRecovery:
        """Return the counts by the first method that holds, of those that read a gradient with a bias."""
        head, layer, several = given.head, given.head.layer, not given.exact
        rule = Tilting(auxiliary=self.auxiliary)
        tilt = rule.estimate(given.seen, head, given.mask, seeds)
        known = torch.zeros(len(head.link.targets), dtype=torch.long)
        # What is proven of a whole gradient is not, of one with entries left out.
        whole_one = given.mask is None
        bounded = whole_one and unfit(head.link, one_hot=True, uneven=True) is None
        if bounded:
            known = Bounds().least(given.shared, head, seeds)
        if tilt.misfit <= rule.explained and tilt.spread <= self.agreed:
            least = torch.zeros_like(known) if several else known
            counts = whole(torch.maximum(tilt.counts, least.double()), layer.batch)
            return LabelRecovery.of(counts, "tilting", tilt.told, _proof(least, layer.batch))
        if whole_one and not several and layer.batch <= self.unmixing:
            found, proven = _unmixed(given.seen, head, seeds)
            if proven:
                return LabelRecovery.of(found, "softmax_unmixing", certified=True)
            known = torch.maximum(known, found)
        if not bounded:
            return LabelRecovery.of(whole(tilt.counts, layer.batch), "tilting", tilt.told)
        least = torch.zeros_like(known) if several else known
        note = f"{_proof(least, layer.batch)}, the others a prior's"
        counts = completed(known, layer.batch, amplified(layer, head.link))
        return LabelRecovery.of(counts, "bounds", tilt.told, note)


def _proof(least: Tensor, batch: int) -> str:
    """How many labels are told by the update, in words."""
    return f"{min(int(least.sum()), batch)} of {batch} labels are told by the update"


def _unmixed(observation: Observation, head: BiasedHead, seeds: Seeds) -> tuple[Tensor, bool]:
    """Return the counts (C,) of the labels that softmax unmixing finds, and whether they are all."""
    classes = len(head.link.targets)
    if indistinct(head) is not None:
        return torch.zeros(classes, dtype=torch.long), False
    found = unmixed(observation, head, seeds.generator("unmixing"))
    sure = found.labels[found.found & (found.labels >= 0)]
    counts = torch.bincount(sure, minlength=classes)
    return counts, found.certified and len(sure) == len(found.labels)


def recover_labels(
    observation: Observation, *, seeds: Seeds, auxiliary: Auxiliary | None = None
) -> LabelRecovery:
    """Return how many examples of each class there are, by the best method that the observation allows (`BestLabels`).

    Raises:
        ValueError: no method can read the labels.
    """
    return BestLabels(auxiliary=auxiliary)(observation, seeds=seeds)


def _granted(observation: Observation) -> Tensor | None:
    """Granted counts, or those of granted labels."""
    if observation.classes is None:
        return None
    return label_counts(observation, observation.classes)


def _as_one(observation: Observation) -> tuple[Observation, tuple[str, ...]]:
    """The observation as one of a gradient, and what is said where that is the mean of several."""
    training = many_steps(observation)
    if isinstance(training, Inapplicable):
        return observation, ()
    count = training.taken(observation.batch_size)
    steps = "steps that are not told" if isinstance(training, Calibrated) else f"{count} steps"
    seen = mean_gradient(observation, training)
    return seen, (f"the mean gradient of {steps}, in their middle",) if count > 1 else ()


def _noted(reading: Reading, *notes: str) -> Reading:
    """Return the reading with these notes before its own."""

    def noted(seeds: Seeds) -> LabelRecovery:
        found = reading(seeds)
        return replace(found, notes=(*notes, *found.notes))

    return noted
