"""A folder of image files as a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor

from leakgauge.core import DataError, ImageDomain
from leakgauge.core.files import reason
from leakgauge.data.dataset import Dataset, most_values
from leakgauge.data.files import find_file
from leakgauge.data.pictures import FORMATS, Background, read_picture

MOST_FILES = 2**18
"""Most image files in a folder: 262,144."""
LARGEST_SIDE = 2048
"""Largest `size` in pixels, since an audit holds tens of copies of each image."""


def image_folder(
    path: str | Path,
    size: Annotated[int, Ge(1), Le(LARGEST_SIDE)] | None = None,
    background: Background | None = None,
) -> Dataset:
    """Load a folder of image files: PNG, JPEG, WebP and BMP, with one subfolder for each class.

    Classes are the subfolders in sorted order. A folder without subfolders is one class. Files are
    read in the order of their names. Other files are skipped, and also files whose names start with
    a dot. Links are followed.

    A file has 8 bits a channel, or is a gray PNG of 16 bits. Its format must be the one of its ending.
    Images are turned upright by their EXIF orientation. See `read_picture`.

    Args:
        path: The folder. It is looked up as given, then under `$LEAKGAUGE_DATA`, then in its subfolder
            `data`.
        size: Side of the square to which each image is center-cropped and resized, from 1 to 2048
            pixels. With None, all images must have equal sizes.
        background: "black" or "white", the color behind transparent pixels. With None, a file with
            transparent pixels is refused.

    Returns:
        Inputs (N, C, H, W) in [0, 1]. C is 1 if all files are gray, else 3.

    Raises:
        DataError: The folder is missing or empty, or holds too many images or numbers. Or sizes
            differ, or `read_picture` refuses a file.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from PIL import Image
        >>> import leakgauge as lg
        >>> with TemporaryDirectory() as folder:
        ...     for name in ("cat", "dog"):
        ...         Path(folder, name).mkdir()
        ...         Image.new("RGB", (8, 8)).save(Path(folder, name, "first.png"))
        ...     data = lg.data.image_folder(folder)
        >>> data.class_names, data.inputs.shape
        (('cat', 'dog'), torch.Size([2, 3, 8, 8]))
    """
    root = find_file(path, "data")
    where = f"image folder {str(path)!r}"
    if size is not None and not 1 <= size <= LARGEST_SIDE:
        raise DataError(
            where,
            expected=f"a size from 1 to {LARGEST_SIDE:,} pixels",
            found=f"{size} pixels",
            remedy="correct the size",
        )
    try:
        groups = _groups(root, where)
    except OSError as error:
        raise DataError(
            where,
            expected="a folder whose files may be listed",
            found=f"{reason(error)}: {error.filename!r}",
            remedy="check the access rights of the folder and its subfolders",
        ) from error
    files = [file for group in groups.values() for file in group]
    inputs = _stacked(files, size, background, where)
    counts = torch.tensor([len(group) for group in groups.values()])
    return Dataset(
        name=root.resolve().name,
        inputs=inputs,
        targets=torch.arange(len(groups)).repeat_interleave(counts),
        domain=ImageDomain(*inputs.shape[1:]),
        classes=len(groups),
        class_names=tuple(groups),
    )


def _groups(root: Path, where: str) -> dict[str, list[Path]]:
    """Return the image files by the name of their class. Classes and files are sorted."""
    if not root.is_dir():
        raise DataError(
            where, expected="a folder", found="a file", remedy="give the folder that holds the file"
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
            expected="files ending in " + ", ".join(sorted(FORMATS)),
            found="no image, neither in the folder nor in its subfolders",
            remedy="give a folder of images",
        )
    count = sum(map(len, groups.values())) or len(flat)
    if count > MOST_FILES:
        raise DataError(
            where,
            expected=f"at most {MOST_FILES:,} images",
            found=f"{count:,}",
            remedy="give a folder with fewer images: an audit needs only a batch, and as many other examples",
        )
    return groups or {root.resolve().name: flat}


def _files(folder: Path) -> list[Path]:
    """Return the files with the ending of an image. A pipe or a dead link is refused later, when it is read."""
    found = (f for f in folder.iterdir() if f.suffix.lower() in FORMATS and not f.is_dir())
    return sorted(f for f in found if not f.name.startswith("."))


def _stacked(
    files: list[Path], size: int | None, background: Background | None, where: str
) -> Tensor:
    """Return all images (N, C, H, W). If one has color, gray images are repeated over three channels."""
    images: list[Tensor] = []
    values, most = 0, most_values()
    for file in files:
        image = read_picture(file, size=size, background=background)
        if images and image.shape[1:] != images[0].shape[1:]:
            sides = [f"{i.shape[2]}x{i.shape[1]}" for i in (images[0], image)]
            raise DataError(
                where,
                expected="images of one size",
                found=f"{files[0].name!r} of {sides[0]} pixels and {file.name!r} of {sides[1]}",
                remedy="give size=... to center-crop and resize all images",
            )
        values += 3 * image[0].numel()
        if values > most:
            raise DataError(
                where,
                expected=f"at most {most:,} numbers, of three channels, in all images",
                found=f"more in the first {len(images) + 1:,} of {len(files):,} images",
                remedy="give fewer images, or a smaller size=...",
            )
        images.append(image)
    channels = max(image.shape[0] for image in images)
    return torch.stack([image.expand(channels, -1, -1) for image in images])
