"""One image file to one tensor: the format by content, the size by header, nothing dropped unsaid."""

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
"""The format that an ending promises. No other format is ever opened: some start other programs."""
MOST_BYTES = 2**28
"""Largest image file: 256 MiB."""
MOST_PIXELS = 2**26
"""Most pixels of an image, by its header: 67 million, 8192 x 8192."""
MOST_WORK = 2**31
"""Most pixels of a JPEG times its scans: each scan of a progressive one goes over all pixels again."""
Background = Literal["black", "white"]

_GRAY, _COLOR = ("1", "L"), ("RGB", "P")
_SIXTEEN = ("I;16", "I;16B", "I")
_ALPHA = ("LA", "PA", "RGBA", "La", "RGBa")
# Of a PNG's header: the bit depth, and the type of color, 0 for gray and no alpha.
_PNG_DEPTH, _PNG_COLOR = 24, 25


def read_picture(
    file: Path, *, size: int | None = None, background: Background | None = None
) -> Tensor:
    """Return an image (C, H, W) in [0, 1] as float32, upright as its EXIF orientation says.

    C is 1 for gray, else 3. PNG, JPEG, WebP and BMP of 8 bits a channel are read, and gray PNG of 16
    bits, at full precision. `size`: center-crop and resize to that square. `background`: what is put
    behind transparent pixels. Raises DataError for a file that is not regular, too large
    (MOST_BYTES, MOST_PIXELS), broken, of another format than its ending says, of several frames, of
    CMYK, of 16-bit color, and for one with transparent pixels where no background is given.
    """
    where = f"image file {str(file)!r}"
    check_file(file, where, most=MOST_BYTES, expected="an image file", error=DataError)
    try:
        with warnings.catch_warnings():
            # Pillow warns of what it guesses, for example where EXIF data is broken.
            warnings.simplefilter("error", UserWarning)
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # ours is stricter
            image = _upright(file, where, background)
            if size is not None:
                image = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
    except UserError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(where, reason(error)) from error
    # Pillow reports bytes that it cannot read by a dozen kinds of exception.
    except Exception as error:
        raise DataError(
            where,
            expected="a readable image (PNG, JPEG, WebP or BMP)",
            found=_known(error),
            remedy="save it again, or remove this file",
        ) from error
    return _tensor(image)


def _upright(file: Path, where: str, background: Background | None) -> Image.Image:
    """The decoded image in mode L, RGB, or F (gray of 16 bits, from 0 to 65535)."""
    promised = FORMATS[file.suffix.lower()]
    with Image.open(file, formats=sorted(set(FORMATS.values()))) as opened:
        _check_header(opened, file, promised, where)
        return _flat(ImageOps.exif_transpose(opened), where, background)


def _check_header(opened: Image.Image, file: Path, promised: str, where: str) -> None:
    """Raise DataError for what the header tells to be unreadable, before a pixel is decoded."""
    if opened.format != promised:
        raise DataError(
            where,
            expected=f"{promised}, as its ending {file.suffix!r} says",
            found=str(opened.format),
            remedy="give it the ending of its format, or convert it",
        )
    if getattr(opened, "n_frames", 1) != 1:
        raise DataError(
            where,
            expected="one image in a file",
            found=f"{getattr(opened, 'n_frames', 1)} frames",
            remedy="save the frame that you want as a file of its own",
        )
    width, height = opened.size
    if not 1 <= width * height <= MOST_PIXELS:
        raise _too_large(where, f"{width}x{height}")
    if promised == "JPEG":
        _check_scans(file, width * height, where)
    if promised == "PNG":
        depth, color = _png_kind(file)
        # Pillow keeps the upper 8 bits alone, and does not say so.
        if depth == 16 and color != 0:
            raise DataError(
                where,
                expected="8 bits a channel, or gray of 16 bits without alpha",
                found="color or alpha of 16 bits a channel",
                remedy="convert it to 8 bits, or store the images as uint16 in an archive (npz)",
            )


def _check_scans(file: Path, pixels: int, where: str) -> None:
    """Raise DataError for a JPEG of more scans than any camera writes, which would take hours to decode."""
    scans = file.read_bytes().count(b"\xff\xda")
    if scans * pixels > MOST_WORK:
        raise DataError(
            where,
            expected=f"at most {MOST_WORK:,} pixels in all scans of a progressive image",
            found=f"{scans:,} scans of {pixels:,} pixels",
            remedy="save it again as a baseline JPEG",
        )


def _too_large(where: str, found: str) -> DataError:
    return DataError(
        where,
        expected=f"from 1 to {MOST_PIXELS:,} pixels",
        found=found,
        remedy="scale it down before you load it",
    )


def _png_kind(file: Path) -> tuple[int, int]:
    """Bit depth and type of color, from the header that is a PNG's first chunk."""
    with file.open("rb") as stream:
        header = stream.read(_PNG_COLOR + 1)
    return header[_PNG_DEPTH], header[_PNG_COLOR]


def _flat(image: Image.Image, where: str, background: Background | None) -> Image.Image:
    """The image without alpha."""
    if image.mode in _SIXTEEN and "transparency" not in image.info:
        return image.convert("F")
    if image.mode in _ALPHA or "transparency" in image.info:
        return _composed(image, where, background)
    if image.mode not in _GRAY + _COLOR:
        raise DataError(
            where,
            expected="gray or RGB of 8 bits a channel, or gray of 16 bits",
            found=f"Pillow mode {image.mode}",
            remedy="convert it to RGB with the color profile that you want",
        )
    return image.convert("L" if image.mode in _GRAY else "RGB")


def _composed(image: Image.Image, where: str, background: Background | None) -> Image.Image:
    """The image on its background; fully opaque alpha says nothing, and needs none."""
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
                remedy='say what lies behind them with background = "white" or "black"',
            )
        layered = Image.alpha_composite(Image.new("RGBA", layered.size, background), layered)
    return layered.convert("RGB").convert("L") if gray else layered.convert("RGB")


def _tensor(image: Image.Image) -> Tensor:
    array = np.array(image, dtype=np.float32)
    # A filter may overshoot; modes of 8 bits are clipped by Pillow.
    unit = np.clip(array / (65535 if image.mode == "F" else 255), 0, 1)
    values = torch.from_numpy(unit)
    return values[None] if values.ndim == 2 else values.permute(2, 0, 1).contiguous()


def _known(error: Exception) -> str:
    """What Pillow says; for a file that no allowed format recognizes, that."""
    if isinstance(error, UnidentifiedImageError):
        return "another format, or no image"
    return reason(error)
