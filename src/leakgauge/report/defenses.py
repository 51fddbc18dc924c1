"""The effect of each defense: one panel for each case, attack, batch size and defense."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

from markupsafe import Markup

from leakgauge.records import Cell, Claim, Headline
from leakgauge.report.figures import Axis, Line, Point, sweep
from leakgauge.report.formats import FORMATS
from leakgauge.report.leak import partner
from leakgauge.report.pictures import Album
from leakgauge.report.quantiles import median, quantile
from leakgauge.report.wording import plain, plural


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One defense against one attack, as a figure and in words.

    Args:
        case: Name of the case.
        attack: Name of the attack.
        batch_size: Number of examples in each batch.
        headline: The score that stands for leakage.
        defense: Name of the defense.
        reprs: Configurations of the defense, one for each strength.
        claims: What each part of the defense hides, from whom, and how an adaptive adversary responds.
        summary: The finding in words.
        pictured: Number, from 1, of the example in the pictures. It is 0 if the batch has one example or there are no
            pictures.
        figure: SVG of leakage against strength.
        wide: Whether the panel takes the whole width of the page.
        skipped: Audits that were inapplicable or failed.
    """

    case: str
    attack: str
    batch_size: int
    headline: Headline
    defense: str
    reprs: list[str]
    claims: tuple[Claim, ...]
    summary: str
    pictured: int
    figure: Markup
    wide: bool
    skipped: list[Cell]


def panels(cells: Sequence[Cell], album: Album) -> list[Panel]:
    """Return a panel for each group of defended cells, in the order of the records."""
    groups: dict[tuple[object, ...], list[Cell]] = {}
    for cell in cells:
        if not cell.undefended:
            groups.setdefault((*partner(cell), cell.defense.name), []).append(cell)
    open_: dict[tuple[object, ...], list[Cell]] = defaultdict(list)
    for cell in cells:
        if cell.undefended:
            open_[partner(cell)].append(cell)
    return [_panel(group, open_[partner(group[0])], album) for group in groups.values()]


def _panel(group: Sequence[Cell], open_: Sequence[Cell], album: Album) -> Panel:
    """Return the panel of a group of defended cells. `open_` holds the undefended cells to compare with."""
    first = group[0]
    run = [cell for cell in group if cell.ran]
    shown = _pictured([*open_, *run])
    points = [_point(cells, shown, album) for cells in _by_strength(run)]
    original = _picture(first, "original", shown)
    title = (
        f"{first.defense.name} against {first.attack.name} on {first.case}, batch of {first.batch_size}: "
        + ("; ".join(point.note for point in points) or "no audit could be run")
    )
    figure = sweep(
        points,
        axis=_axis(first, points, run, open_),
        strength_name=first.defense.strength_name or "setting",
        lines=_lines(run, open_),
        original=album.uri(original),
        title=title,
    )
    return Panel(
        case=first.case,
        attack=first.attack.name,
        batch_size=first.batch_size,
        headline=first.data.headline,
        defense=first.defense.name,
        reprs=list(dict.fromkeys(cell.defense.repr for cell in group if cell.defense.repr)),
        claims=first.defense.claims,
        summary=_summary(points, open_),
        pictured=shown + 1 if first.batch_size > 1 and first.images else 0,
        figure=figure if points else Markup(""),
        wide=len(points) > 6,
        skipped=[cell for cell in group if not cell.ran],
    )


def _strength(cell: Cell) -> float | str:
    """Return the strength of a cell's defense, or "as given" if the defense has none."""
    strength = cell.defense.setting
    return "as given" if strength is None else strength


def _picture(cell: Cell, side: Literal["original", "reconstruction"], i: int) -> str | None:
    """Return the path of one example's picture, or None if there is none."""
    paths: tuple[str, ...] = getattr(cell.images, side, ())
    return next(iter(paths[i : i + 1]), None)


def _by_strength(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Return the cells grouped by strength, in ascending order if all strengths are numbers."""
    groups: dict[float | str, list[Cell]] = {}
    for cell in cells:
        key = _strength(cell)
        groups.setdefault(key, []).append(cell)
    numbers = [key for key in groups if not isinstance(key, str)]
    order = sorted(numbers) if len(numbers) == len(groups) else list(groups)
    return [groups[key] for key in order]


def _pictured(cells: Sequence[Cell]) -> int:
    """Return the index of the example that leaks most in the first cell. Undefended cells come first."""
    if not cells:
        return 0
    headline = cells[0].data.headline
    scores = cells[0].values(headline.metric)
    known = [(headline.leakage(score), -i) for i, score in enumerate(scores) if score is not None]
    return -max(known)[1] if known else 0


def _point(cells: Sequence[Cell], shown: int, album: Album) -> Point:
    """Return the point of one strength, with the picture of example `shown`."""
    first = cells[0]
    headline = first.data.headline
    values = list(chain.from_iterable(cell.values(cell.data.headline.metric) for cell in cells))
    verdicts = [v for cell in cells for v in cell.verdict.per_example if v is not None]
    value, strength = median(values), _strength(first)
    shown_value = FORMATS[headline.format].amount(value, headline.unit)
    note = f"{first.defense.strength_name or 'setting'} {plain(strength)}: median {shown_value}"
    if verdicts:
        note += f", {sum(verdicts)} of {plural(len(verdicts), 'example')} leaked"
    return Point(
        strength=strength,
        value=value,
        low=quantile(values, 0.1),
        high=quantile(values, 0.9),
        leaked=any(verdicts) if verdicts else None,
        weak=any(cell.status in ("unconverged", "diverged") for cell in cells),
        picture=album.uri(_picture(first, "reconstruction", shown)),
        note=note,
    )


def _level(cells: Sequence[Cell], *, control: bool) -> float | None:
    """Return the median score of all examples, or of their controls."""
    return median(
        chain.from_iterable(
            (cell.blind_values if control else cell.values)(cell.data.headline.metric)
            for cell in cells
        )
    )


def _lines(run: Sequence[Cell], open_: Sequence[Cell]) -> list[Line]:
    """Return the levels to compare with: no defense, the threshold of the leak rule, and the blind control."""
    control = _control(run, open_)
    return [
        Line(label="undefended", value=_level(open_, control=False), style="open"),
        Line(label="leak rule", value=_bar(run, control), style="rule"),
        Line(label="blind control", value=control, style="control"),
    ]


def _control(run: Sequence[Cell], open_: Sequence[Cell]) -> float | None:
    """Return the median score of the blind controls. If there are none, use the controls of undefended audits."""
    control = _level(run, control=True)
    return _level(open_, control=True) if control is None else control


def _bar(run: Sequence[Cell], control: float | None) -> float | None:
    """Return the threshold of the leak rule, given the control's score, or None if there is no rule."""
    verdict = run[0].verdict if run else None
    if verdict is None or verdict.floor is None:
        return None
    headline = run[0].data.headline
    bars = [verdict.floor]
    if verdict.margin is not None and control is not None:
        # `leakage` gives the margin its sign. If lower scores leak, a leak lies below the control.
        bars.append(control + headline.leakage(verdict.margin))
    return max(bars, key=headline.leakage)


def _axis(first: Cell, points: Sequence[Point], run: Sequence[Cell], open_: Sequence[Cell]) -> Axis:
    """Return the vertical axis of a figure."""
    headline, format_ = first.data.headline, FORMATS[first.data.headline.format]
    levels = [*(point.high for point in points), _level(open_, control=False)]
    how = "median"
    if headline.better == "lower":
        # If lower scores leak, the control and the rule lie above the scores. The axis must reach them.
        control = _control(run, open_)
        levels += [control, _bar(run, control)]
        how = "median; higher is safer"
    scale = format_.levels([v for v in levels if v is not None and math.isfinite(v)])
    return Axis(title=f"{headline.title} ({how})", top=scale.top, step=scale.step, format=format_)


def _summary(points: Sequence[Point], open_: Sequence[Cell]) -> str:
    """Return the finding of a panel in words."""
    scored = [point for point in points if point.value is not None]
    if not scored:
        return "No score at any setting."
    judged = [point for point in scored if point.leaked is not None]
    if not judged:
        return "No example could be judged: the blind controls are missing."
    leaking = [plain(point.strength) for point in judged if point.leaked]
    if open_ and not leaking and not any(cell.verdict.leaks for cell in open_):
        if all(cell.verdict.leaks is None for cell in open_):
            return "No audit without the defense could be judged, so this shows nothing about the defense."
        return "Nothing leaked without the defense either, so this shows nothing about the defense."
    unjudged = [plain(point.strength) for point in scored if point.leaked is None]
    aside = f" Not judged at {', '.join(unjudged)}." if unjudged else ""
    if len(leaking) == len(judged):
        return (
            f"Leaked at every setting that was judged.{aside}"
            if aside
            else "Leaked at every setting tried."
        )
    held = ", ".join(plain(point.strength) for point in judged if not point.leaked)
    found = (
        f"Leaked at {', '.join(leaking)}. Held at {held}." if leaking else "Held at every setting."
    )
    weak = any(point.weak and not point.leaked for point in judged)
    return (
        found
        + aside
        + (
            " Some attacks that found no leak had not converged. They are weak evidence of safety."
            if weak
            else ""
        )
    )
