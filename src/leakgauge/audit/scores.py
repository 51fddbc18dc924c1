"""Scores of a reconstruction: the first time that anything sees the truth."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from leakgauge import metrics
from leakgauge.core import DataError, Domain, Reconstruction
from leakgauge.core.kinds import describe_value
from leakgauge.federated import Batch
from leakgauge.modalities import Metric, modality_of


def score(
    domain: Domain,
    batch: Batch,
    guess: Reconstruction,
    order: Tensor,
    chosen: Mapping[str, Metric],
    *,
    labels_granted: bool,
) -> dict[str, list[float] | None]:
    """Return metrics by name, one value for each example of the batch, in the batch's order.

    `label` is None if labels were granted (there is nothing to leak), if targets are no class labels, or if the attack
    makes no guess.

    Args:
        order: which guess stands for each example (B,).
        chosen: the metrics of the domain's modality.
    """
    modality = modality_of(domain)
    truth = modality.coordinates(domain, batch.inputs)
    found = modality.in_range(domain, guess.inputs[order])
    values = {
        # A user's own metric may write to what it is given. The next one must not see that.
        name: checked(name, metric(truth.clone(), found.clone()), len(truth))
        for name, metric in chosen.items()
    }
    label: list[float] | None = None
    classes = batch.targets.ndim == 1 and not batch.targets.is_floating_point()
    guessed = guess.targets if classes and not labels_granted else None
    if guessed is not None and guessed.ndim == 1:
        label = metrics.label_match(batch.targets, guessed[order]).tolist()
    return {**values, "label": label}


def checked(name: str, values: object, count: int) -> list[float]:
    """Return the values of a metric, one for each of `count` examples. Raise DataError unless it gave real numbers."""
    if (
        not isinstance(values, Tensor)
        or tuple(values.shape) != (count,)
        or values.dtype == torch.bool
        or values.is_complex()
    ):
        raise DataError(
            f"metric {name!r}",
            expected=f"a tensor of real numbers of shape ({count},), one for each example",
            found=describe_value(values),
            remedy="correct the metric",
        )
    numbers: list[float] = values.tolist()
    return numbers
