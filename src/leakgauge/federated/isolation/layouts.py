"""Functions that read the values and bits of tensors of every layout and type."""

from __future__ import annotations

import torch
from torch import Tensor

LARGEST = 1 << 24
"""Most entries of a sparse tensor that is read as a dense one. Larger ones are read as values and indices."""


def is_dense(tensor: Tensor) -> bool:
    """Return whether a tensor has its own memory with one value at each index."""
    strided = tensor.layout == torch.strided and not (tensor.is_nested or tensor.is_mkldnn)
    return strided and not (tensor.is_meta or tensor.is_quantized)


def dense_parts(tensor: Tensor) -> list[Tensor]:
    """Return dense tensors that hold all values of a tensor of any layout, or none for a meta tensor."""
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
    """Return the bytes of a dense tensor as one flat tensor of uint8."""
    plain = tensor.detach().resolve_conj().resolve_neg()
    return plain.contiguous().flatten().view(torch.uint8)


def is_narrow(tensor: Tensor) -> bool:
    """Return whether a tensor holds 8-bit floating-point numbers, which few functions of torch support."""
    return tensor.is_floating_point() and tensor.element_size() == 1


def is_finite(tensor: Tensor) -> bool:
    """Return whether all values of a tensor of any layout are finite. True for a meta tensor, which has none."""
    return all(
        bool(torch.isfinite(part.float() if is_narrow(part) else part).all())
        for part in dense_parts(tensor)
        if part.is_floating_point() or part.is_complex()
    )


__all__ = ["bits_of", "dense_parts", "is_dense", "is_finite", "is_narrow"]
