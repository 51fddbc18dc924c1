"""A user's own data set, named in a specification as "package.module:factory"."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from leakgauge.core import DataError, Domain, ImageDomain, SpecificationError, dtype_of
from leakgauge.core.lines import text_of
from leakgauge.core.references import foreign, imported
from leakgauge.data.dataset import Dataset, check_values

_RETURNS = "a Dataset, (inputs, targets) or (inputs, targets, domain)"


def custom(reference: str, **options: Any) -> Dataset:
    """Import and call `reference` with `options`; the factory gives a Dataset or tensors.

    "package.module:factory" returns a Dataset, (inputs, targets), or (inputs, targets, domain),
    tensors or arrays: inputs (N, *shape) in the domain's units and type, targets integer (N,). Without
    a domain, inputs (N, C, H, W) are images in [0, 1].

    Raises:
        SpecificationError: where `imported` refuses the reference, or the factory takes other options.
        DataError: where the factory raises an exception, or returns something else.
    """
    where = f"data {reference!r}"
    factory = _factory(reference, where)
    _check_call(factory, reference, options)
    with foreign(
        where, "a factory that returns", remedy="correct it, or its options", error=DataError
    ):
        result = factory(**options)
    if isinstance(result, Dataset):
        return result
    if not isinstance(result, tuple) or len(result) not in (2, 3):
        raise _wrong(reference, expected=_RETURNS, found=_describe(result))
    with foreign(
        where, "tensors that can be read", remedy="return plain tensors or arrays", error=DataError
    ):
        inputs, targets = _tensor(result[0], reference), _tensor(result[1], reference)
    if targets.dtype == torch.bool or targets.is_floating_point() or targets.is_complex():
        raise _wrong(reference, expected="integer targets", found=str(targets.dtype))
    domain = result[2] if len(result) == 3 else _domain(inputs, reference)
    if not isinstance(domain, Domain):
        raise _wrong(reference, expected="a Domain as third value", found=_describe(domain))
    dtype = dtype_of(domain)
    if inputs.is_floating_point() != dtype.is_floating_point:
        raise _wrong(
            reference,
            expected="floating-point inputs" if dtype.is_floating_point else f"{dtype} inputs",
            found=str(inputs.dtype),
            remedy="give the domain's own values as floats (images: divide 8-bit values by 255)"
            if dtype.is_floating_point
            else "give the domain's own values as integers",
        )
    classes = int(targets.max()) + 1 if targets.numel() else None
    return Dataset(reference, inputs.to(dtype), targets.long(), domain, classes)


def _factory(reference: str, where: str) -> Callable[..., Any]:
    """What `reference` names, if it can be called."""
    factory = imported(reference, where)
    if not callable(factory):
        raise SpecificationError(
            where,
            expected="a function or class to call",
            found=_describe(factory),
            remedy="name a factory that returns the data set",
        )
    found: Callable[..., Any] = factory
    return found


def _check_call(factory: Callable[..., Any], reference: str, options: dict[str, Any]) -> None:
    """Raise SpecificationError unless the factory can be called with the options."""
    try:
        inspect.signature(factory).bind(**options)
    except TypeError as error:
        raise SpecificationError(
            f"data {reference!r}",
            expected=f"a factory that can be called with {sorted(options) or 'no arguments'}",
            found=text_of(error),
            remedy="mend the options, or give the factory's parameters defaults",
        ) from error
    except ValueError:
        return  # a built-in without a signature: only calling it can tell


def _domain(inputs: Tensor, reference: str) -> Domain:
    if inputs.ndim == 4:
        return ImageDomain(*inputs.shape[1:])
    raise _wrong(
        reference,
        expected="a domain as third value: only inputs (N, C, H, W) are images by themselves",
        found=f"inputs of shape {tuple(inputs.shape)}",
        remedy="for a table return TableDomain.from_ranges(names, lows, highs): public ranges,"
        " since ranges taken from the records themselves would leak them",
    )


def _tensor(value: object, reference: str) -> Tensor:
    if isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta:
        # An expanded tensor takes no memory until it is computed with.
        check_values(math.prod(value.shape), f"data {reference!r}")
        return value.detach().cpu().as_subclass(Tensor)
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf" and value.dtype.itemsize <= 8:
        # PyTorch reads the machine's own byte order alone.
        return torch.from_numpy(np.ascontiguousarray(value, value.dtype.newbyteorder("=")))
    raise _wrong(reference, expected="dense tensors or numeric arrays", found=_describe(value))


def _describe(value: object) -> str:
    kind = type(value).__name__
    return f"a tuple of {len(value)}" if isinstance(value, tuple) else f"an object of type {kind}"


def _wrong(
    reference: str, *, expected: str, found: str, remedy: str = f"let it return {_RETURNS}"
) -> DataError:
    return DataError(f"data {reference!r}", expected=expected, found=found, remedy=remedy)
