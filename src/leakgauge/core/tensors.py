"""Reading of safetensors files, a format that cannot run code. Files are checked before tensors are read."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from leakgauge.core.errors import UserError
from leakgauge.core.files import check_file, reason

MOST_BYTES = 2**36
"""Largest safetensors file that is opened, in bytes: 64 GiB."""
LONGEST_HEADER = 2**24
"""Longest header of a safetensors file, in bytes: 16 MiB, enough for about 100,000 tensors."""
REALS = frozenset({"F16", "BF16", "F32", "F64"})
"""Types of real numbers that can be read."""
WHOLE = frozenset({"BOOL", "U8", "I8", "I16", "I32", "I64"})
"""Types of whole numbers that can be read."""
_EXPECTED = "a readable .safetensors file"


def read_tensors(
    path: str | Path, where: str, *, error: type[UserError], types: frozenset[str], remedy: str
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a safetensors file by name, and its metadata.

    A file is refused before any tensor is read if it is missing, broken or too large (MOST_BYTES,
    LONGEST_HEADER), or holds another type.

    Args:
        path: The file.
        where: What the file is for, for messages.
        error: The class of the error to raise for a file that is refused.
        types: The types that the file may hold, of REALS and WHOLE.
        remedy: What to do about a broken file, for messages.
    """
    check_file(path, where, most=MOST_BYTES, expected=_EXPECTED, error=error)
    try:
        _check_header(path, where, error, remedy)
        with safe_open(path, "pt") as file:
            names = file.keys()
            found = {name: str(file.get_slice(name).get_dtype()) for name in names}
            _check_types(found, types, where, error)
            # The tensors are copied. Otherwise they would change or become invalid when the file
            # does.
            tensors = {name: file.get_tensor(name).clone() for name in names}
            return tensors, dict(file.metadata() or {})
    # The reader and torch raise any of these for a broken file or an invalid shape.
    except (
        OSError,
        SafetensorError,
        RuntimeError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        OverflowError,
        MemoryError,
    ) as cause:
        raise error(where, expected=_EXPECTED, found=reason(cause), remedy=remedy) from cause


def _check_header(path: str | Path, where: str, error: type[UserError], remedy: str) -> None:
    """Raise `error` for a header longer than LONGEST_HEADER, before the header is parsed."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
    size = Path(path).stat().st_size
    if length > size:
        raise error(
            where,
            expected=_EXPECTED,
            found=f"a header of {length:,} bytes in a file of {size:,}, so another format or a file cut short",
            remedy=remedy,
        )
    if length > LONGEST_HEADER:
        raise error(
            where,
            expected=f"{_EXPECTED} with a header of at most {LONGEST_HEADER:,} bytes",
            found=f"a header of {length:,} bytes",
            remedy=remedy,
        )


def _check_types(
    found: dict[str, str], types: frozenset[str], where: str, error: type[UserError]
) -> None:
    """Raise `error` unless every tensor has one of the `types`."""
    for name, kind in found.items():
        if kind not in types:
            raise error(
                where,
                expected=f"tensors of type {', '.join(sorted(types))}",
                found=f"{name!r} of type {kind}",
                remedy="convert the tensor, for example with tensor.float(), and save it again",
            )


def is_plain_real(tensor: Tensor) -> bool:
    """Return whether a tensor is dense and holds real numbers of 16 to 64 bits."""
    return tensor.layout == torch.strided and tensor.dtype in (
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
    )
