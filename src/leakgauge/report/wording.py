"""Numbers and names as a reader sees them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from leakgauge.records import Cell, Column, Headline

MISSING = "\u2013"

# Everything that a threat model can grant, so that the page can also say what was withheld.
GRANTABLE = ("batch_size", "labels", "label_counts", "defense")
LOCAL = ("order", "hyperparameters")
"""What means something only where the update is of several local steps."""

REMEDIES = {
    "unconverged": "The budget ended first: more steps or restarts could rebuild more.",
    "diverged": "The objective became non-finite: a smaller step could rebuild more.",
}

STATUS_MEANINGS = {
    "certified": "the reconstruction reproduces the update to rounding: proven by the update",
    "converged": "the attacker's objective fell below its tolerance",
    "unconverged": "the budget ended first; this says little about safety",
    "diverged": "the objective became non-finite; this says little about safety",
    "inapplicable": "the attack's conditions do not hold here, so it was not run",
    "no signal": "every entry of the update is 0: nothing was observed, so this says nothing about leakage",
    "failed": "an exception ended the audit; this says nothing about leakage",
}


def decibels(value: float | None) -> str:
    """A PSNR with its unit; a perfect copy has no finite one."""
    if value is None:
        return MISSING
    return f"{value:.1f} dB" if math.isfinite(value) else ("exact" if value > 0 else MISSING)


def percent(value: float | None) -> str:
    """A share in [0, 1] as a percentage."""
    return MISSING if value is None or not math.isfinite(value) else f"{100 * value:.0f}%"


def plain(value: float | str | None, digits: int = 3) -> str:
    """A number in `digits` significant digits, with a short exponent; a string as it is."""
    if value is None:
        return MISSING
    if isinstance(value, str):
        return value
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    mantissa, mark, exponent = f"{value:.{digits}g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if mark else mantissa


def fixed(value: float | None, decimals: int = 2) -> str:
    """A number with a fixed count of decimals."""
    return MISSING if value is None or not math.isfinite(value) else f"{value:.{decimals}f}"


def count(value: int | None) -> str:
    """An integer with thin spaces between thousands."""
    return MISSING if value is None else f"{value:,}".replace(",", "\u202f")


def duration(seconds: float | None) -> str:
    """Seconds for short times, minutes and hours for long ones."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    if seconds < 0.1:
        return "< 0.1 s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def rate(value: float | None) -> str:
    """An accuracy in [0, 1] as a percentage with one decimal."""
    return MISSING if value is None else f"{100 * value:.1f}%"


def lost(fraction: float | None) -> str:
    """Accuracy lost, in points of a hundred; what was gained has a plus."""
    if fraction is None:
        return MISSING
    told = f"{-100 * fraction:+.1f}"
    return "0.0" if told in ("+0.0", "-0.0") else told.replace("-", "\u2212")


def points(fraction: float) -> str:
    """A difference of accuracies, in points of a hundred."""
    told = f"{100 * fraction:.1f}".removesuffix(".0")
    return f"{told} point" if told == "1" else f"{told} points"


def size(count_: float | None) -> str:
    """Bytes, in thousands and millions where there are so many."""
    if count_ is None:
        return MISSING
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count_ >= factor:
            return f"{plain(count_ / factor)} {unit}"
    return f"{count_:.0f} B"


def measured(value: float | None, column: Column) -> str:
    """A table's value with its column's decimals and unit."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{value:.{column.decimals}f} {column.unit}".rstrip()


def plural(number: int, noun: str) -> str:
    """A count and its noun."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def knowledge(cell: Cell) -> tuple[list[str], list[str]]:
    """What the adversary knew and what it did not, in words."""
    several = not cell.protocol.single
    known = [
        *cell.threat.always,
        *(name for name in cell.threat.grants if several or name not in LOCAL),
    ]
    # Labels include their counts, so a granted label set leaves nothing of them withheld.
    implied = {"label_counts"} if "labels" in known else set()
    grantable = (*GRANTABLE, *LOCAL) if several else GRANTABLE
    withheld = [name for name in grantable if name not in known and name not in implied]
    return _spoken(known), _spoken(withheld)


def setting(cell: Cell) -> str:
    """A defense with its strength: `gaussian_noise, std = 0.01`."""
    if cell.undefended:
        return "none"
    defense = cell.defense
    if defense.setting is None:
        return defense.name
    return f"{defense.name}, {defense.strength_name or 'strength'} = {plain(defense.setting)}"


def listed(items: Sequence[str], most: int = 4) -> str:
    """`a; b; c and 2 more`: long lists are cut and say so."""
    shown, rest = items[:most], len(items) - most
    return "; ".join(shown) + (f" and {rest} more" if rest > 0 else "")


def together(items: Iterable[str]) -> str:
    """Return `one`, `one and two`, or `one, two and three`. Return `none` if there are no items."""
    *before, last = list(items) or ["none"]
    return f"{', '.join(before)} and {last}" if before else last


def remedy(cell: Cell) -> str:
    """The cell's own message, or else what its status suggests to do."""
    return cell.message or REMEDIES.get(cell.status, "")


def beyond(headlines: Iterable[Headline]) -> str:
    """Return on which side of the blind control's score leakage lies: "above", "below", or "beyond" if on both."""
    sides = {"above" if headline.better == "higher" else "below" for headline in headlines}
    return "beyond" if len(sides) == 2 else next(iter(sides), "above")


def scores(cells: Iterable[Cell]) -> str:
    """Return what leakage is in a run: its one headline score, or each with the kinds of data that it stands for."""
    kinds: dict[str, dict[str, None]] = {}
    for cell in cells:
        kinds.setdefault(score(cell.data.headline), {})[f"{cell.data.kind.removesuffix('s')}s"] = (
            None
        )
    if len(kinds) < 2:
        return "".join(kinds)
    return together(f"{told} for {together(names)}" for told, names in kinds.items())


def score(headline: Headline) -> str:
    """Return what the score of a headline is called in a sentence: `PSNR`, or `the share of columns read`."""
    name = headline.title.removesuffix(f", {headline.unit}")
    if headline.format == "percent":
        name = f"the share of {name}"
    elif headline.format == "number" and name != headline.title:
        name += f" in {headline.unit}"
    return name if headline.better == "higher" else f"{name} (lower leaks more)"


def _spoken(names: Sequence[str]) -> list[str]:
    return [name.replace("_", " ") for name in names]


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A metric of images beside PSNR: its heading, how a value reads, and what it means.

    names: under which records hold it, best first, of which an audit's is the first that it has.
    shared: values are 0 or 1, so that their share tells more than their median.
    """

    heading: str
    names: tuple[str, ...]
    text: Callable[[float | None], str]
    meaning: str
    shared: bool = False

    def name(self, cell: Cell) -> str | None:
        """Under which of its names this audit holds it."""
        return next((name for name in self.names if name in cell.scores), None)


SSIM = Measure(
    heading="SSIM",
    names=("ssim",),
    text=fixed,
    meaning="Structural similarity of two images, at most 1, which means identical.",
)
MS_SSIM = Measure(
    heading="MS-SSIM",
    names=("ms_ssim",),
    text=lambda value: fixed(value, 3),
    meaning="Structural similarity at five scales, for images of 161 pixels a side or more: from 0"
    " to 1, which means identical.",
)
LPIPS = Measure(
    heading="LPIPS",
    names=("lpips_squeeze",),
    text=lambda value: fixed(value, 3),
    meaning="Learned perceptual distance of two images, by the activations of a SqueezeNet 1.1 trained"
    " on ImageNet: lower is closer, 0 means identical. Other networks give other numbers.",
)
FFT2D = Measure(
    heading="FFT2D",
    names=("fft2d",),
    text=lambda value: plain(value, 2),
    meaning="Mean squared difference of the magnitudes of two images' spectra, values scaled to"
    " [0, 1]: lower is closer. Blind to where things are.",
)
IIP = Measure(
    heading="IIP",
    names=("iip_squeeze", "iip_pixels"),
    text=percent,
    meaning="Image Identifiability Precision: the share of reconstructions that are nearer to their own"
    " original than to every other image, the rest of the batch and up to 100 that the client might"
    " have held; the more of them, the harder. Nearest by the features of a SqueezeNet where there"
    " is an LPIPS, elsewhere by squared error.",
    shared=True,
)
MEASURES = (SSIM, MS_SSIM, LPIPS, FFT2D, IIP)
"""In the order in which a reader meets them."""
