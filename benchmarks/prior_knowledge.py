"""What a prior adds to matching the gradient: the four specifications under examples/, run whole.

Prints their scores beside the blind control and, of a full run on the packaged photographs, writes
examples/figures/NAME.png. There, each attack is a block of three rows, from above: originals,
reconstructions, blind controls; blocks stand side by side in the order of the specification.
"""

from __future__ import annotations

import json
import tempfile
import tomllib
from pathlib import Path
from statistics import median

from common import PHOTOS, ROOT, Options, Row, run_jobs, table
from PIL import Image

from leakgauge.audit import Run, Source, execute, plan_from, read
from leakgauge.records import Cell

NAME = "prior_knowledge"
EXAMPLES = ROOT.parent / "examples"
SPECIFICATIONS = ("mlp_l2", "lenet_l2_and_cosine", "batch_2_fails", "tv_sweep")
QUICK_STEPS = {"inverting_gradients": 60}
"""Steps of --quick: signed Adam's, one evaluation each. L-BFGS takes about 20 in each of its 3."""
SIDE, GAP = 72, 4
"""Of the figures, in pixels: an image's side, and the gap between two."""
SIDES = ("original", "reconstruction", "control")


def source(name: str, given: Options) -> Source:
    """The specification as it is written, but for what the command line replaces."""
    text = read(EXAMPLES / f"{name}.toml")
    changes = []
    if given.data is not None:
        path = json.dumps(str(Path(given.data).resolve()))
        changes.append(f'data={{name = "npz", path = {path}}}')
    if given.quick:
        changes.append("repeats=1")
        for i, attack in enumerate(tomllib.loads(text)["cases"][0]["attacks"]):
            changes.append(f"attacks.{i}.steps={QUICK_STEPS.get(attack['name'], 3)}")
    return Source(text, tuple(changes), given.seed or None)


def jobs_of(given: Options) -> tuple[str, ...]:
    """Return the names of the specifications."""
    return SPECIFICATIONS


def run(name: str, given: Options) -> Row:
    """One specification: its cells' scores, and its figure."""
    with tempfile.TemporaryDirectory() as folder:
        audit = execute(plan_from(source(name, given)), out=Path(folder) / "run")
        figure(audit).save(figures(given) / f"{name}.png", optimize=True)
    return {"specification": name, "cells": [scores(cell) for cell in audit.cells]}


def scores(cell: Cell) -> Row:
    """Of a record: what was attacked, and how well (PSNR in dB), beside the control."""
    return {
        "attack": cell.attack.repr,
        "model": cell.model.name,
        "batch": cell.batch_size,
        "labels": list(cell.data.labels or ()),
        "psnr": list(cell.scores["psnr"]),
        "control_psnr": list(cell.control.scores["psnr"]) if cell.control else None,
        "status": cell.status,
        "residual": cell.residual,
        "evaluations": cell.cost.evaluations,
        "seconds": cell.cost.seconds,
    }


def figures(given: Options) -> Path:
    """The folder of figures: the repository's own for the full run, one beside the JSON otherwise."""
    full = not given.quick and given.data is None and given.seed == 0
    folder = EXAMPLES / "figures" if full else given.out.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def figure(audit: Run) -> Image.Image:
    """One block for each attack, side by side."""
    assert audit.folder is not None
    attacks = list(dict.fromkeys(cell.attack.repr for cell in audit.cells))
    blocks = []
    for attack in attacks:
        cells = [cell for cell in audit.cells if cell.attack.repr == attack]
        paths = [[p for cell in cells for p in getattr(cell.images, side)] for side in SIDES]
        blocks.append([[audit.folder / path for path in row] for row in paths])
    step = SIDE + GAP
    widths = [len(block[0]) * step for block in blocks]
    gaps = 5 * GAP * (len(blocks) - 1)
    sheet = Image.new("RGB", (sum(widths) + gaps - GAP, len(SIDES) * step - GAP), "white")
    left = 0
    for block, width in zip(blocks, widths, strict=True):
        for y, row in enumerate(block):
            for x, path in enumerate(row):
                sheet.paste(enlarged(path), (left + x * step, y * step))
        left += width + 5 * GAP
    return sheet


def enlarged(path: Path) -> Image.Image:
    """A PNG at SIDE pixels, its own pixels kept square and sharp."""
    with Image.open(path) as opened:
        return opened.convert("RGB").resize((SIDE, SIDE), Image.Resampling.NEAREST)


def main() -> None:
    rows = run_jobs(NAME, __doc__, jobs_of, run, data=PHOTOS)
    table(
        [
            "specification",
            "attack",
            "images",
            "median PSNR",
            "lowest",
            "highest",
            "control",
            "status",
            "seconds",
        ],
        [line for row in rows for line in lines(row)],
    )


def lines(row: Row) -> list[list[object]]:
    """One line for each attack of a specification: PSNR (dB) over all its images."""
    found: list[list[object]] = []
    for attack in dict.fromkeys(cell["attack"] for cell in row["cells"]):
        cells = [cell for cell in row["cells"] if cell["attack"] == attack]
        psnr = [value for cell in cells for value in cell["psnr"]]
        control = [value for cell in cells for value in cell["control_psnr"]]
        statuses = [cell["status"] for cell in cells]
        found.append(
            [
                row["specification"],
                attack,
                len(psnr),
                f"{median(psnr):.1f}",
                f"{min(psnr):.1f}",
                f"{max(psnr):.1f}",
                f"{median(control):.1f}",
                ", ".join(f"{statuses.count(s)} {s}" for s in dict.fromkeys(statuses)),
                f"{median(cell['seconds'] for cell in cells):.0f}",
            ]
        )
    return found


if __name__ == "__main__":
    main()
