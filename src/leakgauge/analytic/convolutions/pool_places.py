"""The places of the maxima of a max pool: their probability, given a rough input, the outputs and the gradient.

See `pools.py` for the derivation.

References:
    Ours. We know of no publication.
"""

from __future__ import annotations

import torch
from torch import Tensor

from leakgauge.analytic.convolutions.max_pool import Pooled

MANY = 1500
"""Number of places of one channel's windows in doubt, up to which the gradient decides on them."""
SPREAD = 2.0
"""Factor on the variance of an input's errors, since errors of neighbors agree."""
TRUSTED = 0.1
"""Least fraction of the gradient's unexplained part that counts as an effect of the input's error."""


def error_of_inputs(pooled: Pooled, inputs: Tensor, places: Tensor) -> Tensor:
    """Return the mean squared error (B, 1, 1) of the inputs, from what gradient and outputs leave unexplained."""
    seen = (pooled.view(pooled.outputs(inputs)).amax(-1) - pooled.value) * pooled.shown
    size = (pooled.weight.square().sum((1, 2)) * pooled.factor.square())[:, None]
    by_outputs = seen.square().sum((1, 2)) / (size * pooled.shown).sum((1, 2)).clamp_min(1e-300)
    signal = pooled.spread(places * pooled.sent[..., None])
    patches = pooled.geometry.unfold(inputs).movedim(1, 2).flatten(2)
    gap = pooled.dweight.flatten(1) - torch.einsum("bop,bpd->od", signal, patches)
    left = gap.square().mean(1)
    rest = (left - variance_by_places(pooled, inputs, places)).sum().clamp_min(TRUSTED * left.sum())
    by_gradient = rest / pooled.sent.square().sum()
    least = 1e-14 * inputs.square().mean()
    return torch.maximum(by_outputs, by_gradient).clamp_min(least).reshape(-1, 1, 1)


def places_by_outputs(pooled: Pooled, inputs: Tensor, error: Tensor) -> Tensor:
    """Return the probability (B, O, W, Q) of each place, given the inputs. One position has the known value."""
    size = (pooled.weight.square().sum((1, 2)) * pooled.factor.square())[:, None]
    deviation = (error * size).sqrt()[..., None]
    gap = (pooled.value[..., None] - pooled.view(pooled.outputs(inputs))) / deviation
    below = torch.special.log_ndtr(gap.clamp(max=1e6))
    score = -0.5 * gap.square() + below.sum(-1, keepdim=True) - below
    found: Tensor = score.softmax(-1) * pooled.shown[..., None]
    return found


def places_by_gradient(pooled: Pooled, inputs: Tensor, error: Tensor, places: Tensor) -> Tensor:
    """Return the probability (B, O, W, Q) of each place, given its prior and the gradient."""
    geometry, found = pooled.geometry, places.clone()
    patches = geometry.unfold(inputs).movedim(1, 2).flatten(2)  # (B, P, C K)
    rows = torch.nn.functional.pad(patches, (0, 0, 0, 1)).flatten(0, 1)  # the last one is padding
    gram = rows @ rows.T
    signal = pooled.spread(places * pooled.sent[..., None])
    gap = pooled.dweight.flatten(1) - torch.einsum("bop,bpd->od", signal, patches)
    along = gap @ rows.T
    noise = SPREAD * (pooled.sent.square() * error).sum((0, 2))
    starts = torch.arange(len(inputs))[:, None, None] * (geometry.positions + 1)
    where = starts + pooled.windows  # (B, W, Q)
    doubted = pooled.shown & (places.amax(-1) < 1 - 1e-9)
    for channel in (noise > 0).nonzero()[:, 0].tolist():
        b, w = doubted[:, channel].nonzero(as_tuple=True)
        if not 0 < len(b) * places.shape[-1] <= MANY:
            continue
        found[b, channel, w] = _posterior(
            places[b, channel, w],
            pooled.sent[b, channel, w],
            gram,
            along[channel],
            where[b, w],
            float(noise[channel]),
        )
    return found


def _posterior(
    prior: Tensor, signal: Tensor, gram: Tensor, along: Tensor, where: Tensor, noise: float
) -> Tensor:
    """Return the posterior (n, Q) of the places of one channel's windows.

    Args:
        prior: Their prior (n, Q).
        signal: Signals (n,).
        gram: Inner products of all patches.
        along: Inner products of the unexplained gradient with all patches.
        where: Number (n, Q) of the patch of each place.
        noise: Variance of one entry of the gradient.
    """
    n, q = prior.shape
    root = prior.sqrt()
    # The covariance of a choice of one place is F F'.
    factor = torch.diag_embed(root) - prior[:, :, None] * root[:, None]
    flat, each = where.flatten(), signal.repeat_interleave(q)
    inner = (gram[flat][:, flat] * each[:, None] * each).reshape(n, q, n, q)
    inner = torch.einsum("nij,nikl->njkl", factor, inner)
    inner = torch.einsum("njkl,klm->njkm", inner, factor).reshape(n * q, n * q) / noise
    right = torch.einsum("nij,ni->nj", factor, along[where] * signal[:, None]).flatten() / noise
    inner.diagonal().add_(1)
    solution = torch.linalg.solve(inner, right).reshape(n, q)
    found = (prior + torch.einsum("nij,nj->ni", factor, solution)).clamp_min(1e-4)
    found = found * (prior > 0)
    return found / found.sum(-1, keepdim=True)


def variance_by_places(pooled: Pooled, inputs: Tensor, places: Tensor) -> Tensor:
    """Return the variance (O,) of the gradient's entries that uncertain places leave."""
    patches = pooled.geometry.unfold(inputs).movedim(1, 2).flatten(2)
    each = torch.nn.functional.pad(patches, (0, 0, 0, 1))[:, pooled.windows]  # (B, W, Q, C K)
    gram = each @ each.mT / each.shape[-1]
    power = torch.einsum("bowq,bwqq->bow", places, gram)
    of_mean = torch.einsum("bowq,bowr,bwqr->bow", places, places, gram)
    return (pooled.sent.square() * (power - of_mean).clamp_min(0)).sum((0, 2))
