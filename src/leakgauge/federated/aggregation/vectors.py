"""Conversion between named tensors and one flat vector."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from leakgauge.core import Tensors


def flat(tensors: Mapping[str, Tensor]) -> Tensor:
    """Return all entries as one vector (d,), tensor after tensor."""
    return torch.cat([t.detach().flatten() for t in tensors.values()])


def shaped(vector: Tensor, like: Mapping[str, Tensor]) -> Tensors:
    """Return a vector (d,) as new tensors with the names, shapes and types of `like`."""
    pieces = torch.split(vector, [t.numel() for t in like.values()])
    named = zip(like.items(), pieces, strict=True)
    return {name: piece.reshape(t.shape).to(t, copy=True) for (name, t), piece in named}


__all__ = ["flat", "shaped"]
