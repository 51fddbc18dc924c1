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
from leakgauge.core.references import guard_user_code, import_part
from leakgauge.data.dataset import Dataset, check_values

_RETURNS = "a Dataset, (inputs, targets) or (inputs, targets, domain)"


def custom(reference: str, **options: Any) -> Dataset:
    """Load a data set with a user's own factory.

    The factory is a function or class. It returns a `Dataset`, `(inputs, targets)`, or
    `(inputs, targets, domain)`. Inputs and targets are tensors or arrays:

    - inputs `(N, *shape)` in the units and type of the domain;
    - targets (N,), integers from 0.

    Without a domain, inputs (N, C, H, W) are images in [0, 1].

    Args:
        reference: The factory, as "package.module:factory".
        **options: Arguments of the factory.

    Raises:
        SpecificationError: The reference names nothing that can be called, or the factory does not
            take these options.
        DataError: The factory raises an exception, or returns something else.

    Example:
        >>> import leakgauge as lg
        >>> len(lg.data.custom("leakgauge.data:digits"))
        1797
    """
    where = f"data {reference!r}"
    factory = _factory(reference, where)
    _check_call(factory, reference, options)
    with guard_user_code(
        where, "a factory that returns", remedy="correct it, or its options", error=DataError
    ):
        result = factory(**options)
    if isinstance(result, Dataset):
        return result
    if not isinstance(result, tuple) or len(result) not in (2, 3):
        raise _wrong(reference, expected=_RETURNS, found=_describe(result))
    with guard_user_code(
        where, "tensors that can be read", remedy="return plain tensors or arrays", error=DataError
    ):
        inputs, targets = _tensor(result[0], reference), _tensor(result[1], reference)
    if targets.dtype == torch.bool or targets.is_floating_point() or targets.is_complex():
        raise _wrong(reference, expected="integer targets", found=str(targets.dtype))
    domain = result[2] if len(result) == 3 else _domain(inputs, reference)
    if not isinstance(domain, Domain):
        raise _wrong(reference, expected="a Domain as the third value", found=_describe(domain))
    dtype = dtype_of(domain)
    if inputs.is_floating_point() != dtype.is_floating_point:
        raise _wrong(
            reference,
            expected="floating-point inputs" if dtype.is_floating_point else f"{dtype} inputs",
            found=str(inputs.dtype),
            remedy="return the values as floats in the domain's units (images: divide 8-bit values by 255)"
            if dtype.is_floating_point
            else "return the values as integers",
        )
    classes = int(targets.max()) + 1 if targets.numel() else None
    return Dataset(reference, inputs.to(dtype), targets.long(), domain, classes)


def _factory(reference: str, where: str) -> Callable[..., Any]:
    """Return the factory that `reference` names, or raise SpecificationError if it cannot be called."""
    factory = import_part(reference, where)
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
            remedy="correct the options, or give the parameters of the factory defaults",
        ) from error
    except ValueError:
        # A built-in function has no signature. Its call shows whether the options fit.
        return


def _domain(inputs: Tensor, reference: str) -> Domain:
    """Return an image domain for inputs (N, C, H, W), or raise DataError for any other shape."""
    if inputs.ndim == 4:
        return ImageDomain(*inputs.shape[1:])
    raise _wrong(
        reference,
        expected="a domain as the third value, unless inputs are images (N, C, H, W)",
        found=f"inputs of shape {tuple(inputs.shape)}",
        remedy="for a table, return TableDomain.from_ranges(names, lows, highs) with public ranges:"
        " ranges computed from the records would leak them",
    )


def _tensor(value: object, reference: str) -> Tensor:
    """Return a dense tensor on the CPU from a tensor or an array, or raise DataError."""
    if isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta:
        # An expanded tensor takes no memory until it is copied, so its size is checked first.
        check_values(math.prod(value.shape), f"data {reference!r}")
        return value.detach().cpu().as_subclass(Tensor)
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf" and value.dtype.itemsize <= 8:
        # PyTorch reads only the byte order of the machine.
        return torch.from_numpy(np.ascontiguousarray(value, value.dtype.newbyteorder("=")))
    raise _wrong(reference, expected="dense tensors or numeric arrays", found=_describe(value))


def _describe(value: object) -> str:
    """Return words for the type of a value."""
    kind = type(value).__name__
    return f"a tuple of {len(value)}" if isinstance(value, tuple) else f"an object of type {kind}"


def _wrong(
    reference: str, *, expected: str, found: str, remedy: str = f"let it return {_RETURNS}"
) -> DataError:
    """Return a DataError about a factory's result."""
    return DataError(f"data {reference!r}", expected=expected, found=found, remedy=remedy)
