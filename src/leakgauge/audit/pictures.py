"""Images to PNG."""

from __future__ import annotations

import io

import torch
from PIL import Image
from torch import Tensor


def picture(image: Tensor) -> bytes:
    """A PNG of one image (C, H, W) in [0, 1]: gray for one channel, color for three, else their mean."""
    if image.shape[0] not in (1, 3):
        image = image.mean(0, keepdim=True)
    pixels = (image.detach().cpu().nan_to_num(0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    array = pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()


def tile(images: Tensor, *, most: int = 4) -> Tensor:
    """The first images (B, C, H, W), at most `most`, as one picture: two a row where there are more than two."""
    shown = list(images[:most])
    if len(shown) < 3:
        return torch.cat(shown, dim=-1)
    if len(shown) % 2:
        shown.append(torch.ones_like(shown[0]))
    rows = [torch.cat(shown[i : i + 2], dim=-1) for i in range(0, len(shown), 2)]
    return torch.cat(rows, dim=-2)
