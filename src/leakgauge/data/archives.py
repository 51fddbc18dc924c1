"""NumPy archives (.npz) of images or of tables. Pickled arrays are refused: they can run code."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from leakgauge.core import DataError, Domain, ImageDomain, TableDomain
from leakgauge.data.dataset import Dataset
from leakgauge.data.files import find_file

Split = Literal["train", "test", "val"]
Array = NDArray[Any]

# Without a split: what was meant to be read first, then what a model was least likely trained on.
_DEFAULT = ("", "test_", "train_", "val_")
_KEYS = "images and labels, or inputs and labels, as they are or behind train_, test_ or val_"


def npz(path: str | Path, split: Split | None = None, *, classes: int | None = None) -> Dataset:
    """Examples from a NumPy archive: images, or a table.

    Keys are `images` (uint8, NHWC with 1 to 4 channels, or NHW; read as [0, 1]) or `inputs` (float
    (N, D), in the columns' units), with `labels` (integers (N,) or (N, 1), from 0); each may carry
    the prefix train_, test_ or val_, which `split` chooses (default: no prefix, else test, else
    train, else val). Tables: `columns` (names), `lows` and `highs` (public ranges, (D,)); without
    ranges every value must lie in [0, 1]. `classes`: the number of classes, else that of the key
    `classes` (names), else the largest label plus one. The path is looked up as given, then under
    $LEAKGAUGE_DATA and its data folder. Raises DataError where any of this does not hold.
    """
    where = f"archive {str(path)!r}"
    arrays, keys = _read(find_file(path, "data"), where, split)
    prefix, kind = _choose(keys, where, split)
    values, labels = arrays[prefix + kind], arrays[prefix + "labels"]
    names = tuple(str(name) for name in arrays["classes"].ravel()) if "classes" in arrays else ()
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
    known = classes or len(names) or int(targets.max(initial=-1)) + 1
    return Dataset(
        name=Path(path).stem + (f" {prefix[:-1]}" if prefix else ""),
        inputs=torch.from_numpy(inputs),
        targets=torch.from_numpy(targets),
        domain=domain,
        classes=known,
        class_names=names if len(names) == known else (),
    )


def _read(file: Path, where: str, split: Split | None) -> tuple[dict[str, Array], list[str]]:
    """The arrays that the split needs, and no others, as archives can be large; and every key."""
    prefixes = _DEFAULT if split is None else (f"{split}_",)
    wanted = {p + k for p in prefixes for k in ("images", "inputs", "labels")}
    wanted |= {"classes", "columns", "lows", "highs"}
    try:
        archive = np.load(file, allow_pickle=False)
        if isinstance(archive, np.lib.npyio.NpzFile):
            with archive:
                arrays = {key: archive[key] for key in archive.files if key in wanted}
                return arrays, sorted(archive.files)
        found = "a single array (.npy)"
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        found = str(error) or type(error).__name__
    raise DataError(
        where,
        expected="a NumPy archive (.npz) without pickled arrays",
        found=found,
        remedy="write it with numpy.savez, from plain numeric and string arrays",
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
    if values.dtype != np.uint8 or values.ndim != 4 or not 1 <= values.shape[-1] <= 4:
        raise DataError(
            where,
            expected="images as uint8 of shape (N, H, W, C) with 1 to 4 channels, or (N, H, W)",
            found=f"{values.dtype} of shape {values.shape}",
            remedy="store 8-bit images, channels last",
        )
    height, width, channels = values.shape[1:]
    inputs = np.ascontiguousarray(values.transpose(0, 3, 1, 2), dtype=np.float32) / 255
    return inputs, ImageDomain(channels, height, width)


def _table(values: Array, arrays: dict[str, Array], where: str) -> tuple[Array, Domain]:
    if values.dtype.kind != "f" or values.ndim != 2:
        raise DataError(
            where,
            expected="inputs as floats of shape (N, columns)",
            found=f"{values.dtype} of shape {values.shape}",
            remedy="store a table as floats; images belong under the key images, as uint8",
        )
    width = values.shape[1]
    names = arrays.get("columns", np.array([f"column {i}" for i in range(width)]))
    lows = arrays.get("lows", np.zeros(width))
    highs = arrays.get("highs", np.ones(width))
    shapes = {"columns": names.shape, "lows": lows.shape, "highs": highs.shape}
    if any(shape != (width,) for shape in shapes.values()) or lows.dtype.kind not in "iuf":
        raise DataError(
            where,
            expected=f"columns, lows and highs of shape ({width},), one for each column of inputs",
            found=", ".join(f"{key} {shape}" for key, shape in shapes.items()),
            remedy="give one name, low and high for each column",
        )
    known = "lows" in arrays and "highs" in arrays
    if not known and bool(((values < 0) | (values > 1)).any()):
        raise DataError(
            where,
            expected="lows and highs, the public range of each column",
            found="not both, and values outside [0, 1]",
            remedy="add both keys; ranges taken from the records themselves would leak them",
        )
    domain = TableDomain.from_ranges([str(n) for n in names], lows.tolist(), highs.tolist())
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
    return flat.astype(np.int64)
