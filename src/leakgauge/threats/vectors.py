"""Numbers of an object, read as vectors from tensors, arrays, collections, text and bytes."""

from __future__ import annotations

import array
import base64
import binascii
import io
import re
from collections import deque
from collections.abc import Iterable, Iterator
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from leakgauge.federated.isolation.layouts import dense_parts

PIECE = 1024
"""Most values of a tensor or an array that is read as part of the collection around it."""
HUGE = 1e300
"""Largest magnitude of a number that is read. Python's integers may exceed every float64."""
ENCODED = 32
"""Fewest characters of a text that is decoded as base64 or hexadecimal digits."""
FLOATS = 16
"""Fewest bytes that are read as float32."""
LAYOUTS = (np.float32, np.float64, np.float16, np.uint8, np.int64, np.int32)
"""Types in which bytes are read as numbers."""

_CALL = re.compile(r"[A-Za-z_][\w.]*\(|dtype=[\w.]+|device=\S+|grad_fn=\S+|requires_grad=\w+")
_HEAD = re.compile(r"(?:[A-Za-z_][\w.]*\(|[\s,;:'\"()\[\]{}<>])*[-+]?\.?\d")
_SEPARATOR = re.compile(r"[\s,;:'\"()\[\]{}<>]+")
_BASE64 = re.compile(r"[A-Za-z0-9+/\s_-]+={0,2}\s*")

READABLE = (
    *(Tensor, np.ndarray, torch.UntypedStorage),
    *(list, tuple, deque, dict, MappingProxyType, set, frozenset),
    *(str, bytes, bytearray, memoryview, array.array, io.BytesIO),
)
"""Types that may hold numbers. Other collections hold objects of these types, which are reached on their own."""


def as_tensor(value: Any) -> Tensor | None:
    """Return a dense real tensor of the numbers in `value`, or None if it holds no numbers.

    Args:
        value: A tensor, an array, bytes of float32, a list or a tuple.
    """
    if isinstance(value, Tensor):
        return _joined([part for each in dense_parts(value) for part in _real(each)])
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return torch.from_numpy(np.array(value, dtype=np.float64))
    if isinstance(value, np.ndarray) and value.dtype.kind == "c":
        return as_tensor(torch.from_numpy(value.astype(np.complex128)))
    if isinstance(value, (bytes, bytearray, array.array)):
        raw = bytes(value)
        known = len(raw) >= FLOATS and len(raw) % 4 == 0
        return torch.frombuffer(bytearray(raw), dtype=torch.float32) if known else None
    if isinstance(value, (list, tuple)) and value:
        numbers = flat_numbers(value)
        return None if numbers is None else torch.tensor(numbers, dtype=torch.float64)
    return None


def vectors(value: Any) -> Iterator[Tensor]:
    """Yield every dense real tensor that the numbers of `value` can form.

    The values of a dictionary come before its keys. Bytes are read in each of `LAYOUTS` whose size
    divides their length.

    Args:
        value: Anything that `as_tensor` or `raw_bytes` reads, or an array.array, a deque, a
            dictionary or text.
    """
    if isinstance(value, array.array) and value.typecode not in "uw":
        yield torch.from_numpy(np.array(value, dtype=np.float64))
    elif _is_apart(value):
        # The tensors and arrays within are read on their own, each with its own path.
        return
    elif isinstance(value, (Tensor, np.ndarray, list, tuple)):
        tensor = as_tensor(value)
        if tensor is not None:
            yield tensor
    elif isinstance(value, (dict, MappingProxyType)):
        yield from _of_numbers(list(value.values()))
        yield from _of_numbers(list(value))
    elif isinstance(value, deque):
        yield from _of_numbers(list(value))
    elif isinstance(value, str):
        yield from _of_text(value)
    for raw in raw_bytes(value):
        yield from _of_bytes(raw)


def _is_apart(value: Any) -> bool:
    """Return whether a collection holds arrays that are not parts of one array."""
    if isinstance(value, (dict, MappingProxyType)):
        # Arrays with names, such as the buffers of a module, are not parts of one array.
        return _is_array(next(iter(value.values()), None))
    return isinstance(value, (list, tuple, deque)) and len(value) == 1 and _is_array(value[0])


def _is_array(value: Any) -> bool:
    """Return whether a value is a tensor or an array with at least one axis."""
    return isinstance(value, (Tensor, np.ndarray)) and value.ndim > 0


def unordered(value: Any) -> Tensor | None:
    """Return the numbers of a set in ascending order, or None if it is no set of numbers."""
    if not isinstance(value, (set, frozenset)):
        return None
    numbers = flat_numbers(list(value))
    return torch.tensor(numbers, dtype=torch.float64).sort().values if numbers else None


def raw_bytes(value: Any) -> Iterator[bytes]:
    """Yield the bytes of a buffer, a storage or an array of records, and the bytes that a text encodes."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        raw = bytes(value)
        yield raw
        if raw.isascii():
            yield from _decoded(raw.decode("ascii"))
    elif isinstance(value, str):
        yield from _decoded(value)
    elif isinstance(value, io.BytesIO):
        yield value.getvalue()
    elif isinstance(value, torch.UntypedStorage) and value.device.type != "meta":
        held = torch.empty(0, dtype=torch.uint8, device=value.device).set_(value)
        yield held.cpu().numpy().tobytes()
    elif isinstance(value, np.ndarray) and value.dtype.kind in "VS":
        yield value.tobytes()


def flat_numbers(value: Iterable[Any]) -> list[float] | None:
    """Return the numbers of a nested list or tuple, row by row, or None if it holds anything else.

    Numbers may be Python's, NumPy's, text, or tensors and arrays of at most `PIECE` values. A
    complex number gives its real and its imaginary part. A part of 0 is left out, unless both are
    0.
    """
    found: list[float] = []
    for each in value:
        inner = _numbers_of(each)
        if inner is None:
            return None
        found += inner
    return found


def _numbers_of(value: Any) -> list[float] | None:
    """Return the numbers of one entry, or None if it holds anything else."""
    if isinstance(value, (np.number, np.bool_)):
        return _numbers_of(value.item())
    if isinstance(value, (bool, int, float)):
        return None if abs(value) > HUGE else [float(value)]
    if isinstance(value, complex):
        return [part for part in (value.real, value.imag) if part] or [0.0]
    if isinstance(value, (list, tuple)):
        return flat_numbers(value)
    if isinstance(value, Tensor):
        # Parameters are read on their own. Nobody keeps an example as several parameters.
        if value.numel() > PIECE or (value.ndim and isinstance(value, nn.Parameter)):
            return None
        parts = [part.flatten().tolist() for part in dense_parts(value)]
        return flat_numbers([number for part in parts for number in part])
    if isinstance(value, np.ndarray) and value.size <= PIECE and value.dtype.kind in "biufc":
        return flat_numbers(value.flatten().tolist())
    if isinstance(value, str):
        return text_numbers(value)
    return None


def text_numbers(text: str) -> list[float] | None:
    """Return the numbers of a text that holds nothing else, or None.

    Brackets, commas, quotes and the names that `repr` puts around numbers may separate them.
    """
    if not _HEAD.match(text):
        return None
    words = [word for word in _SEPARATOR.split(_CALL.sub(" ", text)) if word]
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        return None
    return numbers or None


def _of_numbers(values: list[Any]) -> Iterator[Tensor]:
    """Yield one tensor of the values, if all are numbers."""
    numbers = flat_numbers(values)
    if numbers:
        yield torch.tensor(numbers, dtype=torch.float64)


def _of_text(text: str) -> Iterator[Tensor]:
    """Yield one tensor of the numbers in a text, if it holds nothing else."""
    numbers = text_numbers(text)
    if numbers:
        yield torch.tensor(numbers, dtype=torch.float64)


def _of_bytes(raw: bytes) -> Iterator[Tensor]:
    """Yield the tensors that bytes can mean, and the numbers of text that the bytes spell."""
    for layout in LAYOUTS:
        if raw and len(raw) % np.dtype(layout).itemsize == 0:
            with np.errstate(all="ignore"):
                yield torch.from_numpy(np.frombuffer(raw, dtype=layout).astype(np.float64))
    if raw.isascii():
        yield from _of_text(raw.decode("ascii"))


def _decoded(text: str) -> Iterator[bytes]:
    """Yield the bytes that a text encodes in base64 or hexadecimal digits."""
    if len(text) < ENCODED or not _BASE64.fullmatch(text):
        return
    for decode in (base64.b64decode, base64.urlsafe_b64decode, bytes.fromhex):
        try:
            yield decode(text)
        except (ValueError, binascii.Error):
            continue


def _real(tensor: Tensor) -> tuple[Tensor, ...]:
    """Return the real and imaginary parts of a tensor, or the tensor itself if it is real."""
    return (tensor.real, tensor.imag) if tensor.is_complex() else (tensor,)


def _joined(parts: list[Tensor]) -> Tensor | None:
    """Return all values of several tensors as one vector, or a single tensor unchanged, or None if there is none."""
    if len(parts) == 1:
        return parts[0]
    return torch.cat([part.flatten().double() for part in parts]) if parts else None


__all__ = ["READABLE", "as_tensor", "raw_bytes", "unordered", "vectors"]
