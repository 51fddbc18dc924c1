"""Scores of a reconstruction against the private batch. They are computed after the attack."""

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
    """Return the values of each metric, one for each example of the batch, in the batch's order.

    `label` is None if the labels were granted, as granted labels cannot leak. It is also None if the targets are not
    class labels, or if the attack recovers no labels.

    Args:
        domain: Domain of the examples.
        batch: The private batch of B examples.
        guess: The reconstruction.
        order: Index of the reconstructed example that is compared with each private example, `(B,)`.
        chosen: The metrics of the domain's modality, by name.
        labels_granted: Whether the threat model grants the labels.

    Raises:
        DataError: A metric did not return one real number for each example.
    """
    modality = modality_of(domain)
    truth = modality.coordinates(domain, batch.inputs)
    found = modality.in_range(domain, guess.inputs[order])
    values = {
        # A user's metric may write to its arguments, so each metric gets its own copies.
        name: check_values(name, metric(truth.clone(), found.clone()), len(truth))
        for name, metric in chosen.items()
    }
    label: list[float] | None = None
    classes = batch.targets.ndim == 1 and not batch.targets.is_floating_point()
    guessed = guess.targets if classes and not labels_granted else None
    if guessed is not None and guessed.ndim == 1:
        label = metrics.label_match(batch.targets, guessed[order]).tolist()
    return {**values, "label": label}


def check_values(name: str, values: object, count: int) -> list[float]:
    """Return the values of a metric as a list. Raise DataError unless they are `count` real numbers."""
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
            remedy="let the metric return one real number for each example",
        )
    numbers: list[float] = values.tolist()
    return numbers
