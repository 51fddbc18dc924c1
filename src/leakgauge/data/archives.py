"""NumPy archives (.npz) of images or tables. Pickled arrays are refused, because they can run code."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from leakgauge.core import DataError, Domain, ImageDomain, TableDomain
from leakgauge.core.files import check_path
from leakgauge.core.ranges import Count
from leakgauge.data.dataset import Dataset
from leakgauge.data.files import find_file
from leakgauge.data.members import Array, read_members

Split = Literal["train", "test", "val"]

# The order in which prefixes are tried if no split is given. Test is the first split, because a
# model was least likely trained on it.
_DEFAULT = ("", "test_", "train_", "val_")
WHOLE = 2**24
"""Largest number up to which float32 holds every whole number exactly."""
_KEYS = "images and labels, or inputs and labels, without a prefix or with train_, test_ or val_"


def npz(path: str | Path, split: Split | None = None, *, classes: Count | None = None) -> Dataset:
    """Load images or a table from a NumPy archive (.npz).

    The archive holds `labels`, integers (N,) or (N, 1) from 0, and one of these keys:

    - `images`: uint8 or uint16, (N, H, W, C) with 1 to 4 channels, or (N, H, W). They are scaled to
      [0, 1].
    - `inputs`: a table (N, D) in the units of the columns, of floats or of whole numbers up to 2^24.

    These keys may have the prefix `train_`, `test_` or `val_`, which `split` chooses. A table may
    have more keys, without a prefix:

    - `columns`: the names of the columns.
    - `lows` and `highs`: the public range (D,) of each column. Without them, all values must lie in
      [0, 1].
    - `integers`: (D,), true or 1 for each column of whole numbers.

    The key `classes` may hold the names of the classes. Arrays of any byte order are read, and
    arrays in Fortran's order of axes.

    Args:
        path: The archive. It is looked up as given, then under `$LEAKGAUGE_DATA`, then in its subfolder
            `data`.
        split: "train", "test" or "val", which chooses the prefix of the keys. None takes keys without
            a prefix if there are any, else test, else train, else val.
        classes: Number of classes, at least 1. None is the number of names in `classes`, else the
            largest label plus 1.

    Raises:
        DataError: The archive does not have this form. Encrypted archives, pickled arrays,
            and archives above 8 GiB, packed or unpacked, are refused before they are unpacked. So
            are arrays of more numbers than 2^31 or than fit in memory, and arrays whose shape does
            not fit their declared size.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> import numpy as np
        >>> import leakgauge as lg
        >>> images = np.zeros((2, 8, 8, 3), np.uint8)
        >>> with TemporaryDirectory() as folder:
        ...     np.savez(Path(folder, "mine.npz"), images=images, labels=np.array([0, 1]))
        ...     data = lg.data.npz(Path(folder, "mine.npz"))
        >>> data.name, data.classes, data.inputs.shape
        ('mine', 2, torch.Size([2, 3, 8, 8]))
    """
    check_path(path, "archive", DataError)
    where = f"archive {str(path)!r}"
    arrays, keys = _read(path, where, split)
    prefix, kind = _choose(keys, where, split)
    values, labels = arrays[prefix + kind], arrays[prefix + "labels"]
    names = _texts(arrays["classes"], "classes", where) if "classes" in arrays else ()
    targets = _targets(labels, where)
    if kind == "images":
        inputs, domain = _images(values, where)
    else:
        inputs, domain = _table(values, arrays, where)
    if len(inputs) != len(targets):
        raise DataError(
            where,
            expected=f"one label for each of {len(inputs)} examples",
            found=f"{len(targets)} labels",
            remedy=f"correct {prefix}{kind} or {prefix}labels",
        )
    known = len(names) or int(targets.max(initial=-1)) + 1 if classes is None else classes
    return Dataset(
        name=Path(path).stem + (f" {prefix[:-1]}" if prefix else ""),
        inputs=torch.from_numpy(inputs),
        targets=torch.from_numpy(targets),
        domain=domain,
        classes=known,
        class_names=names if len(names) == known else (),
    )


def _read(path: str | Path, where: str, split: Split | None) -> tuple[dict[str, Array], list[str]]:
    """Return only the arrays that the split needs, since archives can be large, and every key."""
    prefixes = _DEFAULT if split is None else (f"{split}_",)
    wanted = {p + k for p in prefixes for k in ("images", "inputs", "labels")}
    return read_members(
        find_file(path, "data"), where, wanted | {"classes", "columns", "lows", "highs", "integers"}
    )


def _choose(keys: list[str], where: str, split: Split | None) -> tuple[str, str]:
    """Return the prefix and the kind, "images" or "inputs", of the examples to read."""
    for prefix in _DEFAULT if split is None else (f"{split}_",):
        for kind in ("images", "inputs"):
            if prefix + kind in keys and prefix + "labels" in keys:
                return prefix, kind
    raise DataError(
        where,
        expected=f"the keys {_KEYS}" if split is None else f"{split}_images and {split}_labels",
        found=f"{keys}",
        remedy="rename the keys" if split is None else "choose another split, or rename the keys",
    )


def _images(values: Array, where: str) -> tuple[Array, Domain]:
    """Return images (N, C, H, W) in [0, 1] and their domain."""
    if values.ndim == 3:
        values = values[..., None]
    if (
        values.dtype not in (np.uint8, np.uint16)
        or values.ndim != 4
        or not 1 <= values.shape[-1] <= 4
        or 0 in values.shape[1:]
    ):
        raise DataError(
            where,
            expected="images as uint8 or uint16 of shape (N, H, W, C) with 1 to 4 channels, or (N, H, W), "
            "none of its sides 0",
            found=f"{values.dtype} of shape {values.shape}",
            remedy="store images of 8 or 16 bits a channel, channels last",
        )
    height, width, channels = values.shape[1:]
    inputs = np.ascontiguousarray(values.transpose(0, 3, 1, 2), dtype=np.float32)
    inputs /= np.iinfo(values.dtype).max
    return inputs, ImageDomain(channels, height, width)


def _table(values: Array, arrays: dict[str, Array], where: str) -> tuple[Array, Domain]:
    """Return rows (N, D) and their domain."""
    if values.dtype.kind not in "fiu" or values.ndim != 2:
        raise DataError(
            where,
            expected="inputs as numbers of shape (N, columns)",
            found=f"{values.dtype} of shape {values.shape}",
            remedy="store a table as floats or whole numbers, and images under the key images as uint8",
        )
    width = values.shape[1]
    _check_values(values, where)
    names = _names(arrays, width, where)
    lows = arrays.get("lows", np.zeros(width))
    highs = arrays.get("highs", np.ones(width))
    integers = arrays.get("integers", np.zeros(width, dtype=bool))
    shapes = {"columns": (len(names),), "lows": lows.shape, "highs": highs.shape}
    also = ""
    if "integers" in arrays:
        shapes["integers"], also = integers.shape, " and integers"
    if any(shape != (width,) for shape in shapes.values()):
        raise DataError(
            where,
            expected=f"columns, lows and highs{also} of shape ({width},), one for each column of inputs",
            found=", ".join(f"{key} {shape}" for key, shape in shapes.items()),
            remedy="give one name, low and high for each column",
        )
    if integers.dtype != np.bool_ and not (
        integers.dtype.kind in "iu" and bool(np.isin(integers, (0, 1)).all())
    ):
        raise DataError(
            where,
            expected="integers as true or false, or as 1 or 0, for each column",
            found=str(integers.dtype),
            remedy="store a Boolean array",
        )
    for key, ends in (("lows", lows), ("highs", highs)):
        if ends.dtype.kind not in "iuf":
            raise DataError(
                where,
                expected=f"{key} as numbers",
                found=str(ends.dtype),
                remedy="store the public range of each column as floats",
            )
    known = "lows" in arrays and "highs" in arrays
    if not known and bool(((values < 0) | (values > 1)).any()):
        raise DataError(
            where,
            expected="lows and highs, the public range of each column",
            found="not both keys, and values outside [0, 1]",
            remedy="add both keys, with public ranges: ranges computed from the records would leak them",
        )
    domain = TableDomain.from_ranges(
        names, lows.tolist(), highs.tolist(), integers.astype(bool).tolist()
    )
    return values.astype(np.float32), domain


def _targets(labels: Array, where: str) -> NDArray[np.int64]:
    """Return class labels (N,) as int64."""
    flat = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if flat.dtype.kind not in "iu" or flat.ndim != 1:
        raise DataError(
            where,
            expected="labels as integers of shape (N,) or (N, 1)",
            found=f"{labels.dtype} of shape {labels.shape}",
            remedy="store one class index for each example",
        )
    if int(flat.max(initial=0)) > np.iinfo(np.int64).max:
        raise DataError(
            where,
            expected="labels of at most 63 bits",
            found=str(int(flat.max())),
            remedy="number the classes from 0",
        )
    return flat.astype(np.int64)


def _check_values(values: Array, where: str) -> None:
    """Raise DataError if float32, in which models compute, cannot hold the values."""
    if values.dtype.kind != "f":
        # The smallest number of an integer type has no absolute value in the type.
        far = max((values.min(initial=0), values.max(initial=0)), key=lambda end: abs(int(end)))
        if abs(int(far)) > WHOLE:
            raise DataError(
                where,
                expected=f"whole numbers from {-WHOLE:,} to {WHOLE:,}, which float32 holds exactly",
                found=f"{int(far):,}",
                remedy="store the table as floats, or in other units",
            )
        return
    largest = np.abs(values).max(initial=0, where=np.isfinite(values))
    if largest > np.finfo(np.float32).max:
        raise DataError(
            where,
            expected="inputs within the range of float32, up to 3.4e38",
            found=f"{largest:.3g}",
            remedy="store the table in other units",
        )


def _names(arrays: dict[str, Array], width: int, where: str) -> tuple[str, ...]:
    """Return the names of the columns, or "column 0", "column 1", ... if the archive has none."""
    if "columns" in arrays:
        return _texts(arrays["columns"], "columns", where)
    return tuple(f"column {i}" for i in range(width))


def _texts(values: Array, key: str, where: str) -> tuple[str, ...]:
    """Return the names of columns or classes from text or whole numbers (N,), without a byte order mark."""
    if values.ndim != 1 or values.dtype.kind not in "USiu":
        raise DataError(
            where,
            expected=f"{key} as text of shape (N,)",
            found=f"{values.dtype} of shape {values.shape}",
            remedy="store one name for each of them",
        )
    try:
        texts = [v.decode() if isinstance(v, bytes) else str(v) for v in values.tolist()]
    # NumPy raises these errors in tolist, for bytes that are not UTF-8 or characters outside Unicode.
    except (ValueError, SystemError) as error:
        raise DataError(
            where, expected=f"{key} in UTF-8", found=str(error), remedy="store plain text"
        ) from error
    return tuple(text.removeprefix("\ufeff") for text in texts)
