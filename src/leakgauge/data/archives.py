"""NumPy archives (.npz) of images or of tables. Pickled arrays are refused: they can run code."""

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

# Without a split: what was meant to be read first, then what a model was least likely trained on.
_DEFAULT = ("", "test_", "train_", "val_")
WHOLE = 2**24
"""Largest whole number up to which float32 holds all of them."""
_KEYS = "images and labels, or inputs and labels, as they are or behind train_, test_ or val_"


def npz(path: str | Path, split: Split | None = None, *, classes: Count | None = None) -> Dataset:
    """Read examples from a NumPy archive: images, or a table.

    Keys are `images` (uint8 or uint16, NHWC with 1 to 4 channels, or NHW; read as [0, 1]) or
    `inputs` ((N, D), floats or whole numbers of at most 2^24, in the columns' units), with
    `labels` (integers (N,) or (N, 1), from 0). Each may carry the prefix train_, test_ or val_, which
    `split` chooses (default: no prefix, else test, else train, else val). Tables: `columns` (names),
    `lows` and `highs` (public ranges, (D,)), and `integers` ((D,), true or 1 for columns whose values
    are whole numbers).
    Without ranges every value must lie in [0, 1]. Any byte order, and Fortran's order of axes, are
    read alike.

    Args:
        path: looked up as given, then under $LEAKGAUGE_DATA and its data folder.
        split: "train", "test" or "val".
        classes: the number of classes, at least 1. Default: that of the key `classes` (names), else
            the largest label plus one.

    Raises:
        DataError: where any of this does not hold. Encrypted archives, pickled arrays, archives of
            more than 8 GiB, packed or unpacked, arrays of more numbers than `most_values()`, and
            arrays whose shape does not fit their declared bytes are refused before they are unpacked.
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
            remedy=f"mend {prefix}{kind} or {prefix}labels",
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
    """The arrays that the split needs, and no others, as archives can be large; and every key."""
    prefixes = _DEFAULT if split is None else (f"{split}_",)
    wanted = {p + k for p in prefixes for k in ("images", "inputs", "labels")}
    return read_members(
        find_file(path, "data"), where, wanted | {"classes", "columns", "lows", "highs", "integers"}
    )


def _choose(keys: list[str], where: str, split: Split | None) -> tuple[str, str]:
    """The prefix and the kind of the examples to read."""
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
    if values.dtype.kind not in "fiu" or values.ndim != 2:
        raise DataError(
            where,
            expected="inputs as numbers of shape (N, columns)",
            found=f"{values.dtype} of shape {values.shape}",
            remedy="store a table as floats or whole numbers; images belong under the key images, as uint8",
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
            found="not both, and values outside [0, 1]",
            remedy="add both keys; ranges taken from the records themselves would leak them",
        )
    domain = TableDomain.from_ranges(
        names, lows.tolist(), highs.tolist(), integers.astype(bool).tolist()
    )
    return values.astype(np.float32), domain


def _targets(labels: Array, where: str) -> NDArray[np.int64]:
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
    """Raise DataError for values that float32, which models compute in, cannot hold."""
    if values.dtype.kind != "f":
        # The least number of a type has no absolute value in it.
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
    """The names of the columns, made up where the archive has none."""
    if "columns" in arrays:
        return _texts(arrays["columns"], "columns", where)
    return tuple(f"column {i}" for i in range(width))


def _texts(values: Array, key: str, where: str) -> tuple[str, ...]:
    """Names of columns or classes, from text or whole numbers (N,); a byte order mark is dropped."""
    if values.ndim != 1 or values.dtype.kind not in "USiu":
        raise DataError(
            where,
            expected=f"{key} as text of shape (N,)",
            found=f"{values.dtype} of shape {values.shape}",
            remedy="store one name for each",
        )
    try:
        texts = [v.decode() if isinstance(v, bytes) else str(v) for v in values.tolist()]
    # Text of bytes that is not UTF-8, or characters that Unicode does not have: NumPy tells of them in tolist.
    except (ValueError, SystemError) as error:
        raise DataError(
            where, expected=f"{key} in UTF-8", found=str(error), remedy="store plain text"
        ) from error
    return tuple(text.removeprefix("\ufeff") for text in texts)
