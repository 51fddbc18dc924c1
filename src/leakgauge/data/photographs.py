"""Real photographs inside scikit-image and scikit-learn. Nothing is downloaded."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from leakgauge.core import DataError, ImageDomain
from leakgauge.core.ranges import check_argument
from leakgauge.data.dataset import Dataset

SMALLEST, LARGEST = 8, 512

Crop = tuple[int, int, int]
"""A square of a photograph in its own pixels: left, top, side."""


class Photograph(NamedTuple):
    """One photograph.

    Args:
        name: Name of its class.
        package: The package that ships it.
        file: Its path in the package.
        licence: Its licence.
        crops: Three square parts of it.
    """

    name: str
    package: str
    file: str
    licence: str
    crops: tuple[Crop, Crop, Crop]


# Licences are from the docstrings of skimage.data, and from the README.txt beside sklearn's images.
# Crops were chosen by eye. The first one shows the whole subject, recognizable at 32 x 32 pixels.
PHOTOGRAPHS = (
    Photograph(
        "astronaut",
        "skimage",
        "data/astronaut.png",
        "public domain (NASA)",
        ((126, 8, 200), (60, 0, 330), (312, 0, 200)),
    ),
    Photograph(
        "coffee cup",
        "skimage",
        "data/coffee.png",
        "CC0 (Rachel Michetti)",
        ((80, 0, 400), (160, 0, 260), (270, 170, 200)),
    ),
    Photograph(
        "cat",
        "skimage",
        "data/chelsea.png",
        "CC0 (Stefan van der Walt)",
        ((60, 0, 300), (130, 60, 220), (110, 50, 120)),
    ),
    Photograph(
        "rocket",
        "skimage",
        "data/rocket.jpg",
        "public domain (SpaceX)",
        ((160, 107, 320), (240, 110, 170), (0, 0, 427)),
    ),
    Photograph(
        "retina",
        "skimage",
        "data/retina.jpg",
        "CC0 (Mikael Häggström)",
        ((0, 0, 1411), (60, 440, 420), (450, 450, 600)),
    ),
    Photograph(
        "galaxy",
        "skimage",
        "data/hubble_deep_field.jpg",
        "public domain (NASA, ESA)",
        ((660, 400, 130), (60, 340, 130), (255, 260, 110)),
    ),
    Photograph(
        "tissue",
        "skimage",
        "data/ihc.png",
        "no known copyright restrictions (CMMI)",
        ((210, 300, 212), (230, 0, 282), (0, 180, 200)),
    ),
    Photograph(
        "photographer",
        "skimage",
        "data/camera.png",
        "CC0 (Lav Varshney)",
        ((100, 40, 330), (170, 60, 160), (180, 70, 110)),
    ),
    Photograph(
        "pavilion",
        "sklearn",
        "datasets/images/china.jpg",
        "CC BY 2.0 (danielbuechele)",
        ((30, 10, 370), (110, 10, 190), (100, 180, 190)),
    ),
    Photograph(
        "flower",
        "sklearn",
        "datasets/images/flower.jpg",
        "CC BY 2.0 (vultilion)",
        ((160, 70, 300), (225, 145, 160), (90, 0, 427)),
    ),
)


def photos(size: int = 32) -> Dataset:
    """Load three square crops of each of ten photographs. The class is the photograph.

    The first crops of all photographs come first, so examples 0 to 9 have ten different classes.

    Args:
        size: Side of the images, from 8 to 512 pixels.

    Returns:
        Inputs (30, 3, size, size) in [0, 1], and the number of the photograph as target.

    Raises:
        DataError: The size is outside its range. Or the installed scikit-image or scikit-learn lacks
            its photographs.

    Example:
        >>> import leakgauge as lg
        >>> data = lg.data.photos(size=16)
        >>> data.inputs.shape, data.class_names[:2]
        (torch.Size([30, 3, 16, 16]), ('astronaut', 'coffee cup'))
    """
    check_argument("photos, size", int, size, DataError)
    if not SMALLEST <= size <= LARGEST:
        raise DataError(
            "photos",
            expected=f"a size from {SMALLEST} to {LARGEST} pixels",
            found=f"{size} pixels",
            remedy="choose a size in this range",
        )
    crops = [_crops(photograph, size) for photograph in PHOTOGRAPHS]
    rounds = len(PHOTOGRAPHS[0].crops)
    return Dataset(
        name="photos",
        inputs=torch.stack([crop[i] for i in range(rounds) for crop in crops]),
        targets=torch.arange(len(PHOTOGRAPHS)).repeat(rounds),
        domain=ImageDomain(3, size, size),
        classes=len(PHOTOGRAPHS),
        class_names=tuple(p.name for p in PHOTOGRAPHS),
        licence="; ".join(f"{p.name}: {p.licence}" for p in PHOTOGRAPHS),
    )


def _crops(photograph: Photograph, size: int) -> list[Tensor]:
    """Return the crops (3, size, size) of a photograph."""
    path = _installed(photograph)
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except OSError as error:
        raise DataError(
            f"photograph {photograph.file!r}",
            expected=f"an image that ships with {photograph.package}",
            found=str(error),
            remedy=f"reinstall the package {photograph.package} from its wheel",
        ) from error
    return [_cut(image, crop, size) for crop in photograph.crops]


def _cut(image: Image.Image, crop: Crop, size: int) -> Tensor:
    """Return one crop (3, size, size) in [0, 1]."""
    left, top, side = crop
    box = (left, top, left + side, top + side)
    small = image.resize((size, size), Image.Resampling.LANCZOS, box=box)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 255


def _installed(photograph: Photograph) -> Path:
    """Return the path of a photograph in its installed package."""
    # The package is found without an import: importing sklearn for two JPEGs would take a second.
    spec = find_spec(photograph.package)
    folders = spec.submodule_search_locations if spec else None
    # If the package is missing, the path does not exist, and the reader of the file raises the
    # error.
    return Path(folders[0] if folders else photograph.package, photograph.file)
