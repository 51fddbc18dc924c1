"""Tensors of every layout and type: which are dense, how their values and bits are read."""

from __future__ import annotations

import torch
from torch import Tensor

LARGEST = 1 << 24
"""Most entries of a sparse tensor that is read as a dense one. Of larger ones, values and indices are read."""


def is_dense(tensor: Tensor) -> bool:
    """Return whether a tensor has values in memory of its own, one at each index."""
    strided = tensor.layout == torch.strided and not (tensor.is_nested or tensor.is_mkldnn)
    return strided and not (tensor.is_meta or tensor.is_quantized)


def dense_parts(tensor: Tensor) -> list[Tensor]:
    """Return dense tensors that hold all values of a tensor of any layout. A meta tensor has none."""
    value = tensor.detach()
    if value.is_meta:
        return []
    if value.is_nested:
        return [part for each in value.unbind() for part in dense_parts(each)]
    if value.is_quantized:
        return [value.dequantize()]
    if value.is_mkldnn or (value.layout != torch.strided and value.numel() <= LARGEST):
        return [value.to_dense()]
    if value.layout == torch.sparse_coo:
        return [value._values(), value._indices()]
    if value.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [value.values(), value.crow_indices(), value.col_indices()]
    if value.layout in (torch.sparse_csc, torch.sparse_bsc):
        return [value.values(), value.ccol_indices(), value.row_indices()]
    return [value.resolve_conj().resolve_neg()]


def bits_of(tensor: Tensor) -> Tensor:
    """Return the bytes of a dense tensor, flat."""
    plain = tensor.detach().resolve_conj().resolve_neg()
    return plain.contiguous().flatten().view(torch.uint8)


def is_narrow(tensor: Tensor) -> bool:
    """Return whether a tensor is of 8-bit floating point, for which torch has few functions."""
    return tensor.is_floating_point() and tensor.element_size() == 1


def is_finite(tensor: Tensor) -> bool:
    """Return whether all values of a tensor of any layout are finite. A meta tensor has no values."""
    return all(
        bool(torch.isfinite(part.float() if is_narrow(part) else part).all())
        for part in dense_parts(tensor)
        if part.is_floating_point() or part.is_complex()
    )


__all__ = ["bits_of", "dense_parts", "is_dense", "is_finite", "is_narrow"]
