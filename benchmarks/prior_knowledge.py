"""What a prior adds to matching the gradient: the four specifications under examples/, run whole.

The table shows their scores beside the blind control. A full run on the packaged photographs also
writes examples/figures/NAME.png. In a figure, each attack is a block of three rows, from above:
originals, reconstructions, blind controls. Blocks stand side by side in the order of the
specification.

Quick: all four specifications with one repeat and few steps, on the packaged photographs.
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
"""Steps of `--quick` by attack.

Signed Adam has one evaluation a step. Other attacks have 3 steps of L-BFGS, of about 20 evaluations
each.
"""
SIDE, GAP = 72, 4
"""Pixels of the figures: an image's side, and the gap between two images."""
SIDES = ("original", "reconstruction", "control")


def source(name: str, given: Options) -> Source:
    """Return the specification, with the changes that the command line asks for."""
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
    """Run one specification. Return its cells' scores, and write its figure."""
    with tempfile.TemporaryDirectory() as folder:
        audit = execute(plan_from(source(name, given)), out=Path(folder) / "run")
        figure(audit).save(figures(given) / f"{name}.png", optimize=True)
    return {"specification": name, "cells": [scores(cell) for cell in audit.cells]}


def scores(cell: Cell) -> Row:
    """Return from a record the attack, its conditions, and its PSNR (dB) beside the control."""
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
    """Return the folder of figures: the repository's own for the full run, else one beside the JSON."""
    full = not given.quick and given.data is None and given.seed == 0
    folder = EXAMPLES / "figures" if full else given.out.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def figure(audit: Run) -> Image.Image:
    """Draw one block for each attack, side by side."""
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
    """Return a PNG at SIDE pixels, enlarged without smoothing."""
    with Image.open(path) as opened:
        return opened.convert("RGB").resize((SIDE, SIDE), Image.Resampling.NEAREST)


def main() -> None:
    """Run the jobs and print the tables."""
    rows = run_jobs(NAME, __doc__, jobs_of, run, data=PHOTOS)
    table(
        [
            "specification",
            "attack",
            "images",
            "median dB",
            "lowest dB",
            "highest dB",
            "control dB",
            "status",
            "seconds",
        ],
        [line for row in rows for line in lines(row)],
    )


def lines(row: Row) -> list[list[object]]:
    """Return one line for each attack of a specification: PSNR (dB) over all its images."""
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
