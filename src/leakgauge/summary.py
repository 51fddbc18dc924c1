"""The table that an audit prints: medians, never means, beside the blind control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from rich.table import Table


def table(cells: Sequence[Mapping[str, Any]]) -> Table:
    """One row for each cell: what the adversary read, and what the same attack reads blind."""
    shown = Table(title="What leaked (medians over the examples of a batch)", title_justify="left")
    for heading in ("case", "batch", "defense", "attack", "status"):
        shown.add_column(heading)
    for heading in ("read", "blind control", "SSIM", "labels", "seconds"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for cell in cells:
        shown.add_row(*row(cell))
    return shown


def row(cell: Mapping[str, Any]) -> list[str]:
    """The texts of one row; an attack that could not run shows dashes."""
    strength = cell["defense"]["strength"]
    defense = cell["defense"]["name"] + (f" {strength}" if strength is not None else "")
    start = [cell["case"], str(cell["batch_size"]), defense, cell["attack"]["name"], cell["status"]]
    if cell["scores"] is None:
        return [*start, "-", "-", "-", "-", "-"]
    scores, control = cell["scores"], cell["control"]["scores"]
    seconds = f"{cell['cost']['seconds']:.1f}"
    ssim = f"{median(scores['ssim']):.2f}" if "ssim" in scores else "-"
    label = "-" if scores["label"] is None else f"{sum(scores['label']):.0f}/{len(scores['label'])}"
    return [*start, leakage(scores), leakage(control), ssim, label, seconds]


def leakage(scores: Mapping[str, Any]) -> str:
    """The score that a reader asks for: columns read of a table, decibels of anything else."""
    if "columns_read" in scores:
        return f"{100 * median(scores['columns_read']):.0f}% of columns"
    return f"{median(scores['psnr']):.1f} dB"
