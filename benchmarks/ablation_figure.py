"""The ablation as a picture: originals, each recipe's reconstruction of their gradient, and its control.

Run `python benchmarks/ablation_figure.py benchmarks/results/grad_inversion.json --out docs/ablation.png`, and
`python benchmarks/ablation_figure.py benchmarks/results/convolutions.json --out docs/equal-labels.png`.

The rows come from a JSON file. Only rows that kept a picture are drawn (`picture`, `original` and
`other`, PNG in base64). No attack runs. Every batch with pictures is a column, and every recipe is
a row. Numbers are means over the batch, with those of the control in brackets. Under each original
stands its loss. If the network is sure of an example, an update says almost nothing about it.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
from pathlib import Path
from statistics import mean

from common import Row
from PIL import Image, ImageDraw, ImageFont

SIDE, GAP, LEFT, HEAD = 96, 12, 210, 40
NAMES = {"signed Adam": "Inverting Gradients"}
"""Names of recipes that rows shorten."""
INK, PALE = "#1f2430", "#6b7280"


def decoded(text: str) -> Image.Image:
    """Decode a PNG in base64. It becomes SIDE pixels high, and small images are enlarged without smoothing."""
    image = Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")
    how = Image.Resampling.NEAREST if image.height <= SIDE else Image.Resampling.LANCZOS
    return image.resize((image.width * SIDE // image.height, SIDE), how)


def draw(rows: list[Row]) -> Image.Image:
    """Draw the whole figure."""
    recipes = list(dict.fromkeys(row["recipe"] for row in rows))
    batches = list(dict.fromkeys(batch_of(row) for row in rows))
    strips = {(row["recipe"], batch_of(row)): row for row in rows}
    first = {batch_of(row): row for row in reversed(rows)}
    samples = {batch: decoded(row["original"]) for batch, row in first.items()}
    across = LEFT + sum(image.width + GAP for image in samples.values())
    step = SIDE + GAP + 18
    page = Image.new("RGB", (across, HEAD + step * (len(recipes) + 2)), "white")
    pen = ImageDraw.Draw(page)
    x = LEFT
    for batch in batches:
        pen.text((x, 10), batch, fill=INK, font=font(15))
        paste(page, samples[batch], x, HEAD)
        wide = samples[batch].width // len(first[batch]["loss"])
        for k, loss in enumerate(first[batch]["loss"]):
            pen.text(
                (x + k * wide, HEAD + SIDE + 2),
                f"loss {max(loss, 0.0):.2g}",
                fill=PALE,
                font=font(12),
            )
        for i, recipe in enumerate(recipes):
            row = strips.get((recipe, batch))
            if row is not None:
                paste(page, decoded(row["picture"]), x, HEAD + step * (i + 1))
                pen.text(
                    (x, HEAD + step * (i + 1) + SIDE + 2), words(row), fill=PALE, font=font(12)
                )
        paste(page, decoded(first[batch]["other"]), x, HEAD + step * (len(recipes) + 1))
        x += samples[batch].width + GAP
    for i, name in enumerate(
        ["originals", *(NAMES.get(r, r) for r in recipes), "the control's images"]
    ):
        pen.text((10, HEAD + step * i + SIDE // 2 - 9), name, fill=INK, font=font(15))
    return page


def paste(page: Image.Image, image: Image.Image, x: int, y: int) -> None:
    """Paste an image at this place of the page."""
    page.paste(image, (x, y))


def batch_of(row: Row) -> str:
    """Return the name of a row's column."""
    return f"{row['network']}, batch of {row['size']}, draw {row['draw']}"


def words(row: Row) -> str:
    """Return PSNR and LPIPS, with those of the control in brackets."""
    pairs = [("psnr", "dB", 1), ("lpips", "LPIPS", 2)]
    return "   ".join(
        f"{mean(row[name]):.{digits}f} {unit} ({mean(row['control_' + name]):.{digits}f})"
        for name, unit, digits in pairs
        if name in row and f"control_{name}" in row
    )


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the font of Pillow."""
    return ImageFont.load_default(size)


def main() -> None:
    """Read the rows, draw the figure, and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path, metavar="FILE.json")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.png")
    given = parser.parse_args()
    rows = [row for row in json.loads(given.rows.read_text())["rows"] if "picture" in row]
    if not rows:
        raise SystemExit(
            f"{given.rows}: expected rows with pictures, found none. Run grad_inversion.py or convolutions.py."
        )
    draw(rows).save(given.out)


if __name__ == "__main__":
    main()
