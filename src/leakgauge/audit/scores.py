"""Scores of a reconstruction: the first time that anything sees the truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from hashlib import sha256

import torch
from torch import Tensor

from leakgauge import metrics, models
from leakgauge.core import Domain, Reconstruction
from leakgauge.federated import Batch

Metric = Callable[[Tensor, Tensor], Tensor]
"""Truth and guess in unit coordinates (B, *shape) to one value an example."""


def assignment(domain: Domain, truth: Tensor, guess: Tensor) -> Tensor:
    """Index (B,) of the guess that stands for each original, by the least total squared error."""
    return metrics.assign(domain.to_unit(truth), domain.to_unit(guess))


def score(
    domain: Domain,
    batch: Batch,
    guess: Reconstruction,
    order: Tensor,
    chosen: Mapping[str, Metric],
    *,
    labels_granted: bool,
) -> dict[str, list[float] | None]:
    """Metrics by name (see `metrics_of`), one value for each example of the batch, in the batch's order.

    `label` is None if labels were granted (there is nothing to leak), if targets are no class labels, or if the attack
    makes no guess.
    """
    truth, found = domain.to_unit(batch.inputs), in_range(domain, guess.inputs[order])
    values = {name: metric(truth, found).tolist() for name, metric in chosen.items()}
    label: list[float] | None = None
    classes = batch.targets.ndim == 1 and not batch.targets.is_floating_point()
    guessed = guess.targets if classes and not labels_granted else None
    if guessed is not None and guessed.ndim == 1:
        label = metrics.label_match(batch.targets, guessed[order]).tolist()
    return {**values, "label": label}


def in_range(domain: Domain, inputs: Tensor) -> Tensor:
    """Unit coordinates, moved into [0, 1]: the range is public, so any adversary would."""
    return domain.to_unit(inputs).clamp(0, 1)


def metrics_of(domain: Domain, decoys: Tensor) -> dict[str, Metric]:
    """The metrics that mean something on this domain, by name.

    decoys: other examples (N, *shape) in the domain's units, among which a guess of an image must
    point at its own original; there may be none.
    """
    always: dict[str, Metric] = {"mse": metrics.mse, "psnr": metrics.psnr}
    if domain.kind == "image":
        return {**always, **image_metrics(domain, domain.to_unit(decoys))}
    if domain.kind == "table":
        return {**always, "columns_read": metrics.columns_read}
    return always


def image_metrics(domain: Domain, decoys: Tensor) -> dict[str, Metric]:
    """Those of images: MS-SSIM where five scales fit, LPIPS where it reads them and its weights are found."""
    chosen: dict[str, Metric] = {"ssim": metrics.ssim, "fft2d": metrics.fft2d}
    if min(domain.shape[1:]) >= metrics.MS_SSIM_SIDE:
        chosen["ms_ssim"] = metrics.ms_ssim
    if len(decoys):
        chosen["iip_pixels"] = partial(metrics.identified, decoys=decoys)
    if no_lpips(domain) is None:
        deep = models.lpips_squeeze()
        chosen["lpips_squeeze"] = deep
        if len(decoys):
            embed = Remembering(deep.embed)
            chosen["iip_squeeze"] = partial(metrics.identified, decoys=decoys, embed=embed)
    return chosen


def perceptual(domain: Domain) -> str | None:
    """For the record: by which network images were compared, or why by none; None for other domains."""
    if domain.kind != "image":
        return None
    return no_lpips(domain) or "LPIPS by SqueezeNet 1.1 (ImageNet), learned weights of version 0.1"


def no_lpips(domain: Domain) -> str | None:
    """Why LPIPS says nothing of these images; None where it does."""
    side = metrics.LPIPS_SIDE
    if domain.shape[0] not in (1, 3) or min(domain.shape[1:]) < side:
        return f"no LPIPS: it reads 1 or 3 channels of at least {side} pixels a side"
    return None if models.has_lpips() else "no LPIPS: its weights were not found"


class Remembering:
    """Features of inputs, each computed once: a guess and its control are sought among the same decoys."""

    def __init__(self, embed: Callable[[Tensor], Tensor]) -> None:
        self.embed = embed
        self.known: dict[bytes, Tensor] = {}

    def __call__(self, inputs: Tensor) -> Tensor:
        return torch.cat([self.one(x[None]) for x in inputs])

    def one(self, x: Tensor) -> Tensor:
        """Features (1, D) of one input (1, *shape)."""
        key = sha256(x.numpy().tobytes()).digest()
        if key not in self.known:
            self.known[key] = self.embed(x)
        return self.known[key]
