"""Named tensors as one vector, and back."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from leakgauge.core import Tensors


def flat(tensors: Mapping[str, Tensor]) -> Tensor:
    """(d,) all entries, in the order of names."""
    return torch.cat([t.detach().flatten() for t in tensors.values()])


def shaped(vector: Tensor, like: Mapping[str, Tensor]) -> Tensors:
    """(d,) numbers as tensors named, shaped and typed as `like`, in memory of their own."""
    pieces = torch.split(vector, [t.numel() for t in like.values()])
    named = zip(like.items(), pieces, strict=True)
    return {name: piece.reshape(t.shape).to(t, copy=True) for (name, t), piece in named}


__all__ = ["flat", "shaped"]
