"""A folder of image files as a data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from leakgauge.core import DataError, ImageDomain
from leakgauge.data.dataset import Dataset
from leakgauge.data.files import find_file

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})

_GRAY = frozenset({"1", "L", "LA"})
_COLOR = frozenset({"RGB", "RGBA", "P", "CMYK", "YCbCr"})


def image_folder(path: str | Path, size: int | None = None) -> Dataset:
    """Examples from PNG, JPEG, WebP and BMP files: inputs (N, C, H, W) in [0, 1].

    C is 1 where all files are gray, else 3. Subfolders are classes, in sorted order; a flat folder
    is one class. All images must have one size in pixels, unless `size` is given: then each is
    center-cropped and resized to that square. The path is looked up as given, then under
    $LEAKGAUGE_DATA and its data folder. Raises DataError for a missing or empty folder, an
    unreadable file, 16-bit images, and mixed sizes.
    """
    root = find_file(path, "data")
    where = f"image folder {str(path)!r}"
    if size is not None and size < 1:
        raise DataError(
            where, expected="a size of at least 1 pixel", found=str(size), remedy="mend the size"
        )
    groups = _groups(root, where)
    images = [(file, _read(file)) for files in groups.values() for file in files]
    if size is not None:
        shape = (size, size)
        images = [
            (file, ImageOps.fit(image, shape, Image.Resampling.LANCZOS)) for file, image in images
        ]
    _check_sizes(images, where)
    mode = "L" if all(image.mode == "L" for _, image in images) else "RGB"
    inputs = torch.stack([_tensor(image.convert(mode)) for _, image in images])
    counts = torch.tensor([len(files) for files in groups.values()])
    return Dataset(
        name=root.resolve().name,
        inputs=inputs,
        targets=torch.arange(len(groups)).repeat_interleave(counts),
        domain=ImageDomain(*inputs.shape[1:]),
        classes=len(groups),
        class_names=tuple(groups),
    )


def _groups(root: Path, where: str) -> dict[str, list[Path]]:
    """Image files by class name, both sorted."""
    if not root.is_dir():
        raise DataError(
            where, expected="a folder", found="a file", remedy="give the folder that holds it"
        )
    groups = {folder.name: _files(folder) for folder in sorted(root.iterdir()) if folder.is_dir()}
    groups = {name: files for name, files in groups.items() if files}
    flat = _files(root)
    if groups and flat:
        raise DataError(
            where,
            expected="images in subfolders (one for each class) or in the folder itself",
            found=f"{len(flat)} images beside {len(groups)} subfolders with images",
            remedy="move them into a subfolder, or give one of the subfolders",
        )
    if not groups and not flat:
        raise DataError(
            where,
            expected="files ending in " + ", ".join(sorted(SUFFIXES)),
            found="none, neither in it nor in its subfolders",
            remedy="give a folder of images",
        )
    return groups or {root.resolve().name: flat}


def _files(folder: Path) -> list[Path]:
    found = (f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES and f.is_file())
    return sorted(f for f in found if not f.name.startswith("."))


def _read(file: Path) -> Image.Image:
    """An image as mode L (gray) or RGB, turned as its EXIF data says."""
    try:
        with Image.open(file) as opened:
            image = ImageOps.exif_transpose(opened)
            image.load()
    # Pillow reports broken files by any of these.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(
            f"image file {str(file)!r}",
            expected="a readable image",
            found=str(error),
            remedy="mend or remove this file",
        ) from error
    if image.mode not in _GRAY | _COLOR:
        raise DataError(
            f"image file {str(file)!r}",
            expected="8-bit gray or color",
            found=f"Pillow mode {image.mode}",
            remedy="convert it to 8 bits a channel, or load it as an array with npz",
        )
    return image.convert("L" if image.mode in _GRAY else "RGB")


def _check_sizes(images: list[tuple[Path, Image.Image]], where: str) -> None:
    (first, reference), *rest = images
    for file, image in rest:
        if image.size != reference.size:
            raise DataError(
                where,
                expected="images of one size",
                found=f"{first.name} of {reference.size[0]}x{reference.size[1]} pixels and "
                f"{file.name} of {image.size[0]}x{image.size[1]}",
                remedy="give size=... to center-crop and resize them all",
            )


def _tensor(image: Image.Image) -> Tensor:
    array = torch.from_numpy(np.array(image)).float() / 255
    return array[None] if array.ndim == 2 else array.permute(2, 0, 1).contiguous()
