"""The best of these methods that an observation allows."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from leakgauge.analytic.label_recovery.base import (
    LabelRecovery,
    as_gradient,
    head_of,
    many_steps,
    mean_gradient,
    sent,
    told,
    whole,
)
from leakgauge.analytic.label_recovery.bounds import Bounds, amplified, completed
from leakgauge.analytic.label_recovery.llg import LlgStar
from leakgauge.analytic.label_recovery.one_label import LabelOfOne
from leakgauge.analytic.label_recovery.stand_ins import Auxiliary
from leakgauge.analytic.label_recovery.tilting import Tilting
from leakgauge.analytic.last_layer import label_counts, read
from leakgauge.core import Inapplicable, Observation, Seeds
from leakgauge.core.ranges import Count, Positive
from leakgauge.federated.training.calibration import Calibrated, one_gradient


@dataclass(frozen=True, kw_only=True)
class BestLabels:
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

    def inapplicable(self, observation: Observation) -> str | None:
        labels = observation.knowledge.labels
        if labels is not None and (labels.ndim > 1 or labels.is_floating_point()):
            return "the targets granted are soft: there are no counts of classes"
        if _granted(observation) is not None:
            return None
        seen, _ = _as_one(observation)
        if LabelOfOne().inapplicable(seen) is None:
            return None
        found = head_of(seen, bias=True, uneven=True)
        if isinstance(found, Inapplicable) and LlgStar().inapplicable(seen) is not None:
            return found.reason
        return None

    def __call__(self, observation: Observation, *, seeds: Seeds) -> LabelRecovery:
        reason = self.inapplicable(observation)
        if reason is not None:
            raise ValueError(f"labels cannot be read: {reason}")
        counts = _granted(observation)
        if counts is not None:
            return LabelRecovery.of(counts, "granted", certified=True)
        seen, notes = _as_one(observation)
        if LabelOfOne().inapplicable(seen) is None:
            return _noted(LabelOfOne()(observation, seeds=seeds), *notes)
        if isinstance(head_of(seen, bias=True, uneven=True), Inapplicable):
            return _noted(LlgStar()(seen, seeds=seeds), *notes, "the bias has no gradient")
        return _noted(
            self._read(observation, seen, seeds, several=not one_gradient(observation)), *notes
        )

    def _read(
        self, shared: Observation, observation: Observation, seeds: Seeds, *, several: bool
    ) -> LabelRecovery:
        """Return the counts. shared: the observation as it was shared. several: it is only near one gradient."""
        layer, link = told(head_of(observation, bias=True, uneven=True))
        rule = Tilting(auxiliary=self.auxiliary)
        tilt = rule.estimate(observation, layer, link, seeds)
        known = torch.zeros(len(link.targets), dtype=torch.long)
        # What is proven of a whole gradient is not, of one with entries left out.
        whole_one = sent(observation) is None
        bounded = whole_one and Bounds().inapplicable(observation) is None
        if bounded:
            known = Bounds().least(shared, layer, link, seeds)
        if tilt.misfit <= rule.explained and tilt.spread <= self.agreed:
            least = torch.zeros_like(known) if several else known
            counts = whole(torch.maximum(tilt.counts, least.double()), layer.batch)
            return LabelRecovery.of(counts, "tilting", tilt.told, _proof(least, layer.batch))
        if whole_one and not several and layer.batch <= self.unmixing:
            found, proven = _unmixed(observation, seeds, torch.zeros_like(known))
            if proven:
                return LabelRecovery.of(found, "softmax_unmixing", certified=True)
            known = torch.maximum(known, found)
        if not bounded:
            return LabelRecovery.of(whole(tilt.counts, layer.batch), "tilting", tilt.told)
        least = torch.zeros_like(known) if several else known
        note = f"{_proof(least, layer.batch)}, the others a prior's"
        counts = completed(known, layer.batch, amplified(layer, link))
        return LabelRecovery.of(counts, "bounds", tilt.told, note)


def _proof(least: Tensor, batch: int) -> str:
    """How many labels are told by the update, in words."""
    return f"{min(int(least.sum()), batch)} of {batch} labels are told by the update"


def _unmixed(observation: Observation, seeds: Seeds, none: Tensor) -> tuple[Tensor, bool]:
    """Counts (C,) of the labels that softmax unmixing finds, and whether they are all; `none` (C,) of 0."""
    found = read(as_gradient(observation), seeds.generator("unmixing"))
    if isinstance(found, Inapplicable):
        return none, False
    sure = found.labels[found.found & (found.labels >= 0)]
    counts = torch.bincount(sure, minlength=len(none))
    return counts, found.certified and len(sure) == len(found.labels)


def recover_labels(
    observation: Observation, *, seeds: Seeds, auxiliary: Auxiliary | None = None
) -> LabelRecovery:
    """How many examples of each class, by the best method that the observation allows: `BestLabels`.

    Raises ValueError where none can read it, with the reason.
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


def _noted(found: LabelRecovery, *notes: str) -> LabelRecovery:
    return replace(found, notes=(*notes, *found.notes))
