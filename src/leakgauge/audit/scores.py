"""Scores of a reconstruction: the first time that anything sees the truth."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from leakgauge import metrics
from leakgauge.core import Domain, Reconstruction
from leakgauge.federated import Batch


def assignment(domain: Domain, truth: Tensor, guess: Tensor) -> Tensor:
    """Index (B,) of the guess that stands for each original, by the least total squared error."""
    return metrics.assign(domain.to_unit(truth), domain.to_unit(guess))


def score(
    domain: Domain, batch: Batch, guess: Reconstruction, order: Tensor, *, labels_granted: bool
) -> dict[str, list[float] | None]:
    """Metrics by name, one value for each example of the batch, in the batch's order.

    `label` is None where labels were granted (there is nothing to leak) or the attack makes no guess.
    """
    truth, found = domain.to_unit(batch.inputs), in_range(domain, guess.inputs[order])
    values = {name: metric(truth, found).tolist() for name, metric in metrics_of(domain).items()}
    label: list[float] | None = None
    if not labels_granted and guess.targets is not None and guess.targets.ndim == 1:
        label = metrics.label_match(batch.targets, guess.targets[order]).tolist()
    return {**values, "label": label}


def in_range(domain: Domain, inputs: Tensor) -> Tensor:
    """Unit coordinates, moved into [0, 1]: the range is public, so any adversary would."""
    return domain.to_unit(inputs).clamp(0, 1)


def metrics_of(domain: Domain) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """The metrics that mean something on this domain, by name."""
    always = {"mse": metrics.mse, "psnr": metrics.psnr}
    special: dict[str, dict[str, Callable[[Tensor, Tensor], Tensor]]] = {
        "image": {"ssim": metrics.ssim},
        "table": {"columns_read": metrics.columns_read},
    }
    return {**always, **special.get(domain.kind, {})}
