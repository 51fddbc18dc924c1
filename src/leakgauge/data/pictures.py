"""A reader of one image file. It checks content and header first, and drops no information silently."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from leakgauge.core import DataError, UserError
from leakgauge.core.files import check_file, reason

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP"}
"""The format for each ending. No other format is ever opened, since reading some formats starts other programs."""
MOST_BYTES = 2**28
"""Largest image file: 256 MiB."""
MOST_PIXELS = 2**26
"""Most pixels of an image by its header: 67 million, or 8192 x 8192."""
MOST_WORK = 2**31
"""Largest product of pixels and scans of a JPEG. Each scan of a progressive JPEG covers all pixels again."""
Background = Literal["black", "white"]

_GRAY, _COLOR = ("1", "L"), ("RGB", "P")
_SIXTEEN = ("I;16", "I;16B", "I")
_ALPHA = ("LA", "PA", "RGBA", "La", "RGBa")
# Positions in the header of a PNG: the bit depth, and the type of color. Type 0 is gray without alpha.
_PNG_DEPTH, _PNG_COLOR = 24, 25


def read_picture(
    file: Path, *, size: int | None = None, background: Background | None = None
) -> Tensor:
    """Return an image (C, H, W) in [0, 1] as float32, turned upright by its EXIF orientation.

    C is 1 for gray, else 3. PNG, JPEG, WebP and BMP with 8 bits a channel are read. Gray PNG with 16
    bits is read at full precision.

    Args:
        file: The image file.
        size: Side of the square to which the image is center-cropped and resized, in pixels. None
            keeps its size.
        background: The color behind transparent pixels. None refuses them.

    Raises:
        DataError: The file is broken, is not regular, or is too large (MOST_BYTES, MOST_PIXELS). Or its
            format differs from its ending. Or it has several frames, CMYK colors, 16-bit color, or
            transparent pixels without a background.
    """
    where = f"image file {str(file)!r}"
    check_file(file, where, most=MOST_BYTES, expected="an image file", error=DataError)
    try:
        with warnings.catch_warnings():
            # Pillow warns when it guesses, for example if EXIF data is broken.
            warnings.simplefilter("error", UserWarning)
            # The limit of this module is stricter than Pillow's.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = _upright(file, where, background)
            if size is not None:
                image = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
    except UserError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(where, reason(error)) from error
    # For unreadable bytes, Pillow raises a dozen kinds of exceptions.
    except Exception as error:
        raise DataError(
            where,
            expected="a readable image (PNG, JPEG, WebP or BMP)",
            found=_known(error),
            remedy="save the image again, or remove this file",
        ) from error
    return _tensor(image)


def _upright(file: Path, where: str, background: Background | None) -> Image.Image:
    """Return the decoded image in mode L, RGB, or F (gray of 16 bits, from 0 to 65535)."""
    promised = FORMATS[file.suffix.lower()]
    with Image.open(file, formats=sorted(set(FORMATS.values()))) as opened:
        _check_header(opened, file, promised, where)
        return _flat(ImageOps.exif_transpose(opened), where, background)


def _check_header(opened: Image.Image, file: Path, promised: str, where: str) -> None:
    """Raise DataError if the header shows that the image cannot be read. No pixel is decoded yet."""
    if opened.format != promised:
        raise DataError(
            where,
            expected=f"the format {promised} of its ending {file.suffix!r}",
            found=str(opened.format),
            remedy="give the file the ending of its format, or convert it",
        )
    if getattr(opened, "n_frames", 1) != 1:
        raise DataError(
            where,
            expected="one image in a file",
            found=f"{getattr(opened, 'n_frames', 1)} frames",
            remedy="save the frame that you want as a separate file",
        )
    width, height = opened.size
    if not 1 <= width * height <= MOST_PIXELS:
        raise _too_large(where, f"{width}x{height}")
    if promised == "JPEG":
        _check_scans(file, width * height, where)
    if promised == "PNG":
        depth, color = _png_kind(file)
        # Pillow would silently keep only the upper 8 bits.
        if depth == 16 and color != 0:
            raise DataError(
                where,
                expected="8 bits a channel, or gray of 16 bits without alpha",
                found="color or alpha of 16 bits a channel",
                remedy="convert it to 8 bits, or store the images as uint16 in an archive (npz)",
            )


def _check_scans(file: Path, pixels: int, where: str) -> None:
    """Raise DataError if a JPEG has more scans than any camera writes. Decoding them could take hours."""
    scans = file.read_bytes().count(b"\xff\xda")
    if scans * pixels > MOST_WORK:
        raise DataError(
            where,
            expected=f"at most {MOST_WORK:,} pixels in all scans of a progressive image",
            found=f"{scans:,} scans of {pixels:,} pixels",
            remedy="save it again as a baseline JPEG",
        )


def _too_large(where: str, found: str) -> DataError:
    """Return a DataError about the number of pixels."""
    return DataError(
        where,
        expected=f"from 1 to {MOST_PIXELS:,} pixels",
        found=found,
        remedy="scale the image down before you load it",
    )


def _png_kind(file: Path) -> tuple[int, int]:
    """Return the bit depth and the type of color from the header of a PNG, its first chunk."""
    with file.open("rb") as stream:
        header = stream.read(_PNG_COLOR + 1)
    return header[_PNG_DEPTH], header[_PNG_COLOR]


def _flat(image: Image.Image, where: str, background: Background | None) -> Image.Image:
    """Return the image without alpha."""
    if image.mode in _SIXTEEN and "transparency" not in image.info:
        return image.convert("F")
    if image.mode in _ALPHA or "transparency" in image.info:
        return _composed(image, where, background)
    if image.mode not in _GRAY + _COLOR:
        raise DataError(
            where,
            expected="gray or RGB of 8 bits a channel, or gray of 16 bits",
            found=f"Pillow mode {image.mode}",
            remedy="convert the image to RGB with the color profile that you want",
        )
    return image.convert("L" if image.mode in _GRAY else "RGB")


def _composed(image: Image.Image, where: str, background: Background | None) -> Image.Image:
    """Return the image on its background. An image with fully opaque alpha needs no background."""
    gray = image.mode in ("1", "L", "LA", "La")
    if image.mode in _SIXTEEN:
        raise DataError(
            where,
            expected="gray of 16 bits without alpha",
            found="a transparent shade",
            remedy="convert it to 8 bits, or save it without transparency",
        )
    layered = image.convert("RGBA")
    lowest, _ = layered.getchannel("A").getextrema()
    if lowest != 255:
        if background is None:
            raise DataError(
                where,
                expected="an image without transparent pixels",
                found="transparent pixels",
                remedy='choose the color behind them with background = "white" or "black"',
            )
        layered = Image.alpha_composite(Image.new("RGBA", layered.size, background), layered)
    return layered.convert("RGB").convert("L") if gray else layered.convert("RGB")


def _tensor(image: Image.Image) -> Tensor:
    """Return an image (C, H, W) in [0, 1] from a decoded image."""
    array = np.array(image, dtype=np.float32)
    # The filter of a resize may overshoot in mode F. Pillow clips modes of 8 bits itself.
    unit = np.clip(array / (65535 if image.mode == "F" else 255), 0, 1)
    values = torch.from_numpy(unit)
    return values[None] if values.ndim == 2 else values.permute(2, 0, 1).contiguous()


def _known(error: Exception) -> str:
    """Return Pillow's message, or our own if no allowed format recognizes the file."""
    if isinstance(error, UnidentifiedImageError):
        return "another format, or no image"
    return reason(error)
