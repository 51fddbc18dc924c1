"""The default of label recovery: the best method that an observation allows."""

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
    known_steps,
    mean_gradient,
    round_counts,
    shared_entries,
    why_unfit,
)
from leakgauge.analytic.label_recovery.bounds import Bounds, amplified_counts, complete_counts
from leakgauge.analytic.label_recovery.llg import LlgStar
from leakgauge.analytic.label_recovery.one_label import LabelOfOne
from leakgauge.analytic.label_recovery.stand_ins import Auxiliary
from leakgauge.analytic.label_recovery.tilting import Tilting
from leakgauge.analytic.last_layer import label_counts, unmix_head, why_indistinct
from leakgauge.core import Inapplicable, Observation, Seeds
from leakgauge.core.ranges import Count, Positive
from leakgauge.federated.training.calibration import Calibrated, one_gradient


@dataclass(frozen=True, eq=False)
class _Known:
    """Facts about an update whose head has a bias, found before anything is drawn.

    Args:
        shared: The original observation.
        seen: The observation with its update as one gradient.
        head: The head of `seen`.
        mask: Mask of the shared entries of the head's gradient (`shared_entries`).
        exact: Whether the update is one gradient, up to a known factor.
    """

    shared: Observation
    seen: Observation
    head: BiasedHead
    mask: Tensor | None
    exact: bool


@dataclass(frozen=True, kw_only=True)
class BestLabels(LabelMethod):
    """Recover label counts by the best method that the observation allows, at any batch size.

    Use it unless you want one method in particular. The first of these methods whose conditions
    hold gives the counts:

    1. Granted labels or granted counts.
    2. `LabelOfOne` for batch 1.
    3. `Tilting`, if its stand-ins explain the gradient and agree on the counts. This holds for
       networks with little training. Counts are at least as large as `Bounds` proves.
    4. Softmax unmixing, up to batch `unmixing`, if it proves every label.
    5. The counts that `Bounds` proves and the labels that softmax unmixing found, completed by a
       prior.

    Without a gradient of the bias, `LlgStar` replaces steps 3 to 5. A weight difference of several
    steps is treated as the mean gradient at the middle of the trajectory.

    Args:
        auxiliary: Labeled examples of the adversary's own. By default dummies are drawn.
        unmixing: Largest batch size for softmax unmixing, at least 1. Default ours.
        agreed: Largest difference of the stand-ins' counts, as a fraction of the batch, above 0.
            Default ours.

    References:
        The combination is ours. Each method names its own paper.

    Example:
        >>> import leakgauge as lg
        >>> from leakgauge.analytic.label_recovery import BestLabels
        >>> observation = lg.examples.observation(batch_size=6, threat=lg.Server())
        >>> BestLabels()(observation, seeds=lg.Seeds(0)).labels
        tensor([0, 1, 2, 3, 4, 5])
    """

    auxiliary: Auxiliary | None = None
    unmixing: Count = 4
    agreed: Positive = 0.2

    def prepare(self, observation: Observation) -> Reading | Inapplicable:
        labels = observation.knowledge.labels
        if labels is not None and (labels.ndim > 1 or labels.is_floating_point()):
            return Inapplicable("the granted targets are soft: they have no counts of classes")
        counts = _granted_counts(observation)
        if counts is not None:
            granted = LabelRecovery.of(counts, "granted", certified=True)
            return lambda seeds: granted
        seen, notes = _as_one_gradient(observation)
        one = LabelOfOne().prepare(observation)
        if not isinstance(one, Inapplicable):
            return _with_notes(one, *notes)
        head = biased_head_of(seen, uneven=True)
        if isinstance(head, Inapplicable):
            star = LlgStar().prepare(seen)
            missing = "the bias has no gradient: LLG* replaces the default"
            return head if isinstance(star, Inapplicable) else _with_notes(star, *notes, missing)
        known = _Known(observation, seen, head, shared_entries(seen), one_gradient(observation))
        return _with_notes(partial(self.read, known), *notes)

    def read(self, given: _Known, seeds: Seeds) -> LabelRecovery:
        """Return the counts of the first method whose conditions hold. The bias has a gradient."""
        head, layer, several = given.head, given.head.layer, not given.exact
        rule = Tilting(auxiliary=self.auxiliary)
        tilt = rule.estimate(given.seen, head, given.mask, seeds)
        known = torch.zeros(len(head.link.targets), dtype=torch.long)
        # The proof needs all entries of the gradient. It is not valid if a defense dropped some.
        whole_one = given.mask is None
        bounded = whole_one and why_unfit(head.link, one_hot=True, uneven=True) is None
        if bounded:
            known = Bounds().least(given.shared, head, seeds)
        if tilt.misfit <= rule.explained and tilt.spread <= self.agreed:
            least = torch.zeros_like(known) if several else known
            counts = round_counts(torch.maximum(tilt.counts, least.double()), layer.batch)
            return LabelRecovery.of(counts, "tilting", tilt.summary, _proof(least, layer.batch))
        if whole_one and not several and layer.batch <= self.unmixing:
            found, proven = _unmixed_counts(given.seen, head, seeds)
            if proven:
                return LabelRecovery.of(found, "softmax_unmixing", certified=True)
            known = torch.maximum(known, found)
        if not bounded:
            return LabelRecovery.of(round_counts(tilt.counts, layer.batch), "tilting", tilt.summary)
        least = torch.zeros_like(known) if several else known
        note = f"{_proof(least, layer.batch)}; a prior fills the others"
        counts = complete_counts(known, layer.batch, amplified_counts(layer, head.link))
        return LabelRecovery.of(counts, "bounds", tilt.summary, note)


def _proof(least: Tensor, batch: int) -> str:
    """Return in words how many labels the update proves."""
    return f"{min(int(least.sum()), batch)} of {batch} labels are proven by the update"


def _unmixed_counts(
    observation: Observation, head: BiasedHead, seeds: Seeds
) -> tuple[Tensor, bool]:
    """Return the counts (C,) of the labels that softmax unmixing finds, and whether it proves them all."""
    classes = len(head.link.targets)
    if why_indistinct(head) is not None:
        return torch.zeros(classes, dtype=torch.long), False
    found = unmix_head(observation, head, seeds.generator("unmixing"))
    sure = found.labels[found.found & (found.labels >= 0)]
    counts = torch.bincount(sure, minlength=classes)
    return counts, found.certified and len(sure) == len(found.labels)


def recover_labels(
    observation: Observation, *, seeds: Seeds, auxiliary: Auxiliary | None = None
) -> LabelRecovery:
    """Return the number of examples of each class, by the best method that the observation allows.

    See `BestLabels` for the order of the methods.

    Args:
        observation: The observation of one update, a gradient or a weight difference. The batch
            size must be known.
        seeds: Seeds of the dummy inputs and of the search.
        auxiliary: Labeled examples of the adversary's own. By default dummies are drawn.

    Returns:
        The recovered labels. `certified` says whether the update proves them, `notes` says how they
        were found.

    Raises:
        ValueError: No method can recover the labels. The message says why.

    References:
        The combination is ours. Each method names its own paper.

    Example:
        >>> import leakgauge as lg
        >>> from leakgauge.analytic.label_recovery import recover_labels
        >>> observation = lg.examples.observation(batch_size=6, threat=lg.Server())
        >>> found = recover_labels(observation, seeds=lg.Seeds(0))
        >>> found.method, found.counts.tolist()
        ('tilting', [1, 1, 1, 1, 1, 1, 0, 0, 0, 0])
    """
    return BestLabels(auxiliary=auxiliary)(observation, seeds=seeds)


def _granted_counts(observation: Observation) -> Tensor | None:
    """Return granted counts (C,) or the counts of granted labels, or None if neither is granted."""
    if observation.classes is None:
        return None
    return label_counts(observation, observation.classes)


def _as_one_gradient(observation: Observation) -> tuple[Observation, tuple[str, ...]]:
    """Return the observation with its update as one gradient, and a note if this is the mean of several steps."""
    training = known_steps(observation)
    if isinstance(training, Inapplicable):
        return observation, ()
    count = training.count_steps(observation.batch_size)
    steps = "an unknown number of steps" if isinstance(training, Calibrated) else f"{count} steps"
    seen = mean_gradient(observation, training)
    return seen, (
        f"read from the mean gradient of {steps}, at the middle of the trajectory",
    ) if count > 1 else ()


def _with_notes(reading: Reading, *notes: str) -> Reading:
    """Return a reading whose result has these notes before its own notes."""

    def noted(seeds: Seeds) -> LabelRecovery:
        found = reading(seeds)
        return replace(found, notes=(*notes, *found.notes))

    return noted
