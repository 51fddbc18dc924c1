"""The blind control of a benchmark: the same reconstruction, scored against other images of the same labels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache, partial

import torch
from common import Row
from problems import chosen
from torch import Tensor

import leakgauge as lg
from leakgauge.modalities import Metric
from leakgauge.modalities.image import Remembering


def others_of(targets: Tensor, labels: Tensor, generator: torch.Generator) -> list[int]:
    """Return distinct indices of other images, one of each label while there are any. Targets of -1 are not chosen."""
    picked: list[int] = []
    for label in labels:
        left = [i for i in (targets >= 0).nonzero().flatten().tolist() if i not in picked]
        pool = [i for i in left if targets[i] == label] or left
        picked.append(pool[int(torch.randint(len(pool), (1,), generator=generator))])
    return picked


def control_batch(data: lg.Dataset, indices: Sequence[int], generator: torch.Generator) -> lg.Batch:
    """Return other examples than these, one of each label while there are any."""
    return chosen(data, others_of(without(data, indices), data.targets[list(indices)], generator))


def without(data: lg.Dataset, indices: Sequence[int]) -> Tensor:
    """Return the labels (N,) of a data set, -1 for these examples."""
    spare = data.targets.clone()
    spare[list(indices)] = -1
    return spare


def similarity(batch: lg.Batch, guess: lg.Reconstruction) -> Row:
    """Return SSIM after assignment."""
    order = lg.metrics.assign(batch.inputs, guess.inputs)
    return {"ssim": lg.metrics.ssim(batch.inputs, guess.inputs[order]).tolist()}


def every(some: list[Row], name: str) -> list[float]:
    """Return one value for each example, of the rows that have this field."""
    return [value for row in some for value in row.get(name, [])]


def beside_control(
    data: lg.Dataset,
    indices: Sequence[int],
    guess: lg.Reconstruction,
    generator: torch.Generator,
    *,
    draws: int = 5,
) -> Row:
    """Return each metric of the reconstruction for each example, and its mean over `draws` controls.

    Values are clamped and assigned before they are scored. The metrics are PSNR (dB), SSIM, FFT2D
    and identification among all images of `data`, by pixels. Under LEAKGAUGE_DATA, LPIPS on
    SqueezeNet and identification by SqueezeNet's features follow.
    """
    found = score(data, indices, guess)
    spare = without(data, indices)
    labels = data.targets[list(indices)]
    controls = [
        score(data, others_of(spare, labels, generator), guess, hidden=indices)
        for _ in range(draws)
    ]
    for name in list(found):
        drawn = torch.tensor([control[name] for control in controls])
        found[f"control_{name}"] = drawn.mean(0).tolist()
    return found


def score(
    data: lg.Dataset, indices: Sequence[int], guess: lg.Reconstruction, hidden: Sequence[int] = ()
) -> Row:
    """Return the metrics of a reconstruction. Decoys are all other examples of `data` except the hidden ones."""
    batch = chosen(data, indices)
    truth = data.domain.to_unit(batch.inputs)
    unit = data.domain.to_unit(guess.inputs).clamp(0, 1)
    unit = unit[lg.metrics.assign(truth, unit)]
    aside = {*indices, *hidden}
    left = [i for i in range(len(data.targets)) if i not in aside]
    decoys = data.domain.to_unit(data.inputs[left])
    metrics: dict[str, Metric] = {
        "psnr": lg.metrics.psnr,
        "ssim": lg.metrics.ssim,
        "fft2d": lg.metrics.fft2d,
        "iip_pixels": partial(lg.metrics.identified, decoys=decoys),
    }
    if os.environ.get("LEAKGAUGE_DATA"):
        metrics["lpips"] = lg.models.lpips_squeeze()
        metrics["iip_squeeze"] = partial(lg.metrics.identified, decoys=decoys, embed=embedding())
    return {name: metric(truth, unit).tolist() for name, metric in metrics.items()}


@cache
def embedding() -> Remembering:
    """Return SqueezeNet's features. Each process computes them once for each image."""
    return Remembering(lg.models.lpips_squeeze().embed)
