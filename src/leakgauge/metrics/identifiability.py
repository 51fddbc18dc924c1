"""Image Identifiability Precision (Yin et al. 2021, figure 8): does a guess point at its original?"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from leakgauge.core import DataError
from leakgauge.metrics.pairs import finite, pairs, usable

Embedding = Callable[[Tensor], Tensor]
"""Inputs (N, *shape) to features (N, D)."""


def identified(
    truth: Tensor, guess: Tensor, decoys: Tensor, *, embed: Embedding | None = None
) -> Tensor:
    """1 where the nearest to a guess, among all originals and decoys, is its own: (B, *shape) to (B,).

    The mean over examples is the paper's Image Identifiability Precision; chance is 1 / (B + N) with
    N decoys (N, *shape), N >= 1, and the more of them the harder. Nearest by squared error, or with
    `embed` by the cosine of features, as in the paper (its are a ResNet-50's, averaged over places).
    Copies of the original count as it. A tie, and a guess that is not finite, score 0. Raises
    DataError for shapes that differ, originals or decoys that are not finite, and no decoys.
    """
    truth, guess = pairs(truth, guess, "identified")
    if len(decoys) == 0 or decoys.shape[1:] != truth.shape[1:]:
        raise DataError(
            "metric 'identified'",
            expected=f"at least one decoy of shape {tuple(truth.shape[1:])}",
            found=f"{tuple(decoys.shape)}",
            remedy="give other examples of the same data set",
        )
    pool, whole = torch.cat([truth, finite(decoys, "identified")]), usable(guess)
    asked = torch.where(whole.reshape(-1, *(1 for _ in truth.shape[1:])), guess, 0.0)
    apart = _by_error(asked, pool) if embed is None else _by_angle(embed(asked), embed(pool))
    own = apart.diagonal().clone()
    for i, original in enumerate(truth):
        apart[i, (pool == original).flatten(1).all(1)] = torch.inf
    return (whole & (own < apart.min(1).values)).double()


def _by_error(asked: Tensor, pool: Tensor) -> Tensor:
    """Mean squared errors, (B, N)."""
    return torch.stack([(pool - one).square().flatten(1).mean(1) for one in asked])


def _by_angle(asked: Tensor, pool: Tensor) -> Tensor:
    """One minus cosines of features, (B, N)."""
    return 1 - functional.normalize(asked.double()) @ functional.normalize(pool.double()).T
