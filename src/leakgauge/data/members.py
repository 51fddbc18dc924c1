"""Arrays in a zip file. The header of each is checked before its data is unpacked."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from leakgauge.core import DataError, UserError
from leakgauge.core.files import check_file, reason
from leakgauge.data.dataset import check_values

MOST_BYTES = 2**33
"""Largest archive that is opened, and most bytes of its unpacked arrays: 8 GiB."""
MOST_MEMBERS = 10_000
"""Most files in one archive."""
Array = NDArray[Any]

_EXPECTED = "a NumPy archive (.npz) without pickled arrays"
_REMEDY = "write it with numpy.savez, from plain numeric and string arrays"
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_KINDS = "biufUS"
"""Kinds of NumPy types that are read: real numbers and text. Not complex numbers, dates, records or objects."""


def read_members(
    file: Path, where: str, wanted: Collection[str]
) -> tuple[dict[str, Array], list[str]]:
    """Return the arrays of an archive that `wanted` names, and the names of all arrays.

    Raises:
        DataError: The file is no archive, or is larger than MOST_BYTES. Or a wanted array is
            encrypted, is packed by a method that NumPy does not write, or occurs twice. Or its
            declared size does not fit its shape, or it holds neither numbers nor text.
    """
    check_file(file, where, most=MOST_BYTES, expected=_EXPECTED, error=DataError)
    try:
        return _read(file, where, wanted)
    except UserError:
        raise
    # For unreadable bytes, zipfile, zlib and NumPy raise a dozen kinds of exceptions.
    except Exception as error:
        raise _refused(where, reason(error)) from error


def _read(file: Path, where: str, wanted: Collection[str]) -> tuple[dict[str, Array], list[str]]:
    """Return the wanted arrays and the names of all arrays, after all checks of the archive."""
    with file.open("rb") as stream:
        if stream.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX:
            raise _refused(where, "a single array (.npy)")
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if len(members) > MOST_MEMBERS:
            raise _refused(where, f"{len(members):,} files inside, more than {MOST_MEMBERS:,}")
        names = [member.filename.removesuffix(".npy") for member in members]
        chosen = [(n, m) for n, m in zip(names, members, strict=True) if n in wanted]
        for name, member in chosen:
            _check_member(name, member, names, where)
        declared = sum(member.file_size for _, member in chosen)
        if declared > MOST_BYTES:
            raise _refused(where, f"arrays of {declared:,} bytes, more than {MOST_BYTES:,}")
        arrays = {}
        for name, member in chosen:
            with archive.open(member) as content:
                arrays[name] = _array(content, member.file_size, name, where)
        return arrays, sorted(names)


def _check_member(name: str, member: zipfile.ZipInfo, names: list[str], where: str) -> None:
    """Raise DataError if an array occurs twice, is encrypted, or is packed by another method."""
    if names.count(name) > 1:
        raise _refused(where, f"the key {name!r} more than once")
    if member.flag_bits & 0x1:
        raise _refused(where, f"{name!r} encrypted")
    if member.compress_type not in _METHODS:
        raise _refused(where, f"{name!r} packed by method {member.compress_type}")


def _array(content: IO[bytes], size: int, name: str, where: str) -> Array:
    """Return the array of one member in the byte order of the machine."""
    version = npy.read_magic(content)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise _refused(where, f"{name!r} in version {version} of the .npy format")
    reader = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = reader(content)
    if dtype.hasobject:
        raise _refused(where, f"{name!r} pickled")
    if dtype.kind not in _KINDS or dtype.itemsize == 0 or dtype.subdtype is not None:
        raise _refused(where, f"{name!r} of type {dtype}")
    if min(shape, default=0) < 0:
        raise _refused(where, f"{name!r} of shape {shape}")
    # Python's integers do not overflow, so a shape of petabytes is just a large number.
    needed, held = math.prod(shape) * dtype.itemsize, size - content.tell()
    if needed != held:
        raise _refused(
            where, f"{name!r} of shape {shape} and type {dtype} in {held:,} bytes, not {needed:,}"
        )
    # Bytes are converted to float32 and copied, which takes many times their memory.
    check_values(math.prod(shape), where)
    # Read one byte beyond the end, because zipfile compares the checksum only there.
    packed = content.read(needed + 1)
    if len(packed) != needed:
        raise _refused(where, f"{len(packed):,} of the {needed:,} bytes of {name!r}")
    array: Array = np.frombuffer(packed, dtype).reshape(shape, order="F" if fortran else "C")
    return array.astype(dtype.newbyteorder("="))


def _refused(where: str, found: str) -> DataError:
    """Return a DataError about an archive."""
    return DataError(where, expected=_EXPECTED, found=found, remedy=_REMEDY)
