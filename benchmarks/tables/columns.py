"""The columns that many benchmarks share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from tables import figures
from tables.documents import Row
from tables.table import Column, compact, fraction

SAME = "the same reconstruction scored against other images"
"""The control of most benchmarks."""
WORDS = {
    "dB": "PSNR",
    "LPIPS": "perceptual distance (0 for equal images)",
    "SSIM": "structural similarity (1 for equal images)",
    "FFT2D": "squared difference of the magnitudes of 2D spectra (0 for equal images)",
    "IIP": "fraction that is identified (see above)",
}
"""What a unit or a metric is, in words."""
Center = Literal["median", "mean"]
SECONDS = Column("s", figures.seconds, "median seconds of one attack", compact)
RESIDUAL = Column(
    "residual",
    figures.median("residual"),
    "median of `|g - g*| / |g*|`, where `g` is the simulated update and `g*` the observed one",
    fraction,
)
CERTIFIED = Column(
    "certified",
    figures.equal("status", "certified"),
    "batches whose result the attack certifies as exact",
    ".0f",
)
ROWS = Column("n", figures.length, "batches", ".0f")


def count(field: str = "psnr", what: str = "images scored") -> Column:
    """Return the column of how many values a line has."""
    return Column("n", figures.count(field), what, ".0f")


def score(
    field: str = "psnr",
    unit: str = "dB",
    name: str = "",
    *,
    center: Center = "median",
    form: str = ".1f",
) -> list[Column]:
    """Return a score's center and spread: quartiles beside a median, a standard deviation beside a mean.

    Args:
        field: The field of the rows.
        unit: The unit, for the headings.
        name: What stands before the unit in the headings, for example "naive".
        center: "median" or "mean".
        form: How the numbers are written.
    """
    lead = f"{name} " if name else ""
    about = (
        f"{center} {WORDS.get(unit, unit)} over the n images"
        if not name
        else f"{center} {WORDS.get(unit, unit)} of the {name} attack"
    )
    if center == "mean":
        spread = [
            Column(f"{lead}SD", figures.deviation(field), "standard deviation over images", form)
        ]
        return [Column(f"{lead}{unit}", figures.mean(field), about, form), *spread]
    return [
        Column(f"{lead}{unit}", figures.median(field), about, form),
        Column(f"{lead}Q1", figures.quartile(field, 1), "first quartile over images", form),
        Column(f"{lead}Q3", figures.quartile(field, 3), "third quartile over images", form),
    ]


def control(
    field: str = "control_psnr",
    unit: str = "dB",
    name: str = "",
    *,
    center: Center = "median",
    form: str = ".1f",
    what: str = SAME,
) -> Column:
    """Return the column of the blind control."""
    figure = figures.median(field) if center == "median" else figures.mean(field)
    lead = f"{name} " if name else ""
    return Column(f"{lead}control {unit}", figure, f"{center} of the blind control: {what}", form)


def exact(field: str = "psnr", least: float = figures.EXACT) -> Column:
    """Return the column of how many images are exact."""
    return Column(
        f"≥ {least:g} dB", figures.above(field, least), f"images of at least {least:g} dB", ".0f"
    )


def labels_right(field: str = "label") -> Column:
    """Return the column of how many labels were recovered."""
    return Column("labels right", figures.total(field), "labels that were recovered", ".0f")


def scored_by(
    metric: str, unit: str, *, center: Center = "mean", form: str = ".3f"
) -> list[Column]:
    """Return a further metric and its control."""
    middle = figures.mean if center == "mean" else figures.median
    return [
        Column(unit, middle(metric), f"{center} {WORDS.get(unit, unit)} over images", form),
        Column(
            f"control {unit}", middle(f"control_{metric}"), f"{center} of the blind control", form
        ),
    ]


LPIPS = scored_by("lpips", "LPIPS")
"""Perceptual distance by SqueezeNet, lower is nearer, and its control."""
SSIM = scored_by("ssim", "SSIM")
"""Structural similarity, 1 for equal images, and its control."""


def adversaries(
    rows: Sequence[Row], field: str, *, center: Center = "mean", leaks: figures.Figure | None = None
) -> list[Column]:
    """Return the columns of a naive, then of an adaptive adversary: n, score, control, and leaks.

    Args:
        rows: All rows of the page. One column holds n unless an adversary lacks some images.
        field: The field of the rows that says "naive" or "adaptive".
        center: "median" or "mean".
        leaks: Counts the images that leak, or None if the rows do not say it.
    """
    found = [] if uneven(rows, field) else [count()]
    found = [replace(c, figure=of_either(field, c.figure)) for c in found]
    for who in ("naive", "adaptive"):
        middle, *spread = score(name=who, center=center)
        images = Column(f"{who} n", figures.count("psnr"), f"images of the {who} attack", ".0f")
        own = [images, middle] if uneven(rows, field) else [middle]
        own += spread if who == "adaptive" else []
        own.append(control(name=who, center=center))
        if leaks is not None:
            about = f"images that leak to the {who} attack"
            own.append(Column(f"{who} leaks", leaks, about, ".0f"))
        found += [replace(c, figure=figures.where(field, who, c.figure)) for c in own]
    spent = figures.where(field, "adaptive", figures.seconds)
    return [*found, Column("s", spent, SECONDS.about, compact)]


def of_either(field: str, figure: figures.Figure) -> figures.Figure:
    """Return a figure of the adaptive attack's rows, or of the naive one's if there are none."""

    def chosen(rows: Sequence[Row]) -> float | None:
        adaptive = figures.where(field, "adaptive", figure)(rows)
        return figures.where(field, "naive", figure)(rows) if adaptive is None else adaptive

    return chosen


def uneven(rows: Sequence[Row], field: str) -> bool:
    """Return whether one adversary has other images than the other one, in a setting of both."""
    counts: dict[str, dict[str, int]] = {}
    for row in rows:
        if row.get(field) in ("naive", "adaptive") and row.get("psnr"):
            # A setting is what the rows of both adversaries share.
            setting = ", ".join(
                f"{row.get(key)}" for key in ("network", "size", "setting", "defense")
            )
            own = counts.setdefault(setting.split(")")[0], {})
            own[row[field]] = own.get(row[field], 0) + len(row["psnr"])
    return any(len(set(own.values())) > 1 for own in counts.values())
