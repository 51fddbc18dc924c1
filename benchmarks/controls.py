"""The control of a guess without another attack: the same guess scored against other images of the same labels."""

from __future__ import annotations

import torch
from common import Row
from torch import Tensor

import leakgauge as lg


def others_of(targets: Tensor, labels: Tensor, generator: torch.Generator) -> list[int]:
    """Other images, one of each label where there is one, none twice; targets -1 are not to be chosen."""
    chosen: list[int] = []
    for label in labels:
        left = [i for i in (targets >= 0).nonzero().flatten().tolist() if i not in chosen]
        pool = [i for i in left if targets[i] == label] or left
        chosen.append(pool[int(torch.randint(len(pool), (1,), generator=generator))])
    return chosen


def similarity(batch: lg.Batch, guess: lg.Reconstruction) -> Row:
    """SSIM after assignment."""
    order = lg.metrics.assign(batch.inputs, guess.inputs)
    return {"ssim": lg.metrics.ssim(batch.inputs, guess.inputs[order]).tolist()}
