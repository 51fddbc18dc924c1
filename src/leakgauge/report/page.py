"""The page: one HTML text, built from records and pictures alone."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from leakgauge.core.errors import DataError, OutputError
from leakgauge.records import FILE, Cell, Header, Record, Threads, Training, read
from leakgauge.report import defenses, frontier_figure, gallery, leak, wording
from leakgauge.report.defaults import LOSS
from leakgauge.report.failures import failures
from leakgauge.report.formats import FORMATS
from leakgauge.report.frontier import Frontier, frontiers
from leakgauge.report.measures import MEASURES, Measure
from leakgauge.report.pictures import Album
from leakgauge.report.quantiles import median, quantile
from leakgauge.report.recommendation import Recommendation, recommend
from leakgauge.report.run import Run, parse
from leakgauge.report.sentences import MEANINGS

PAGE = "report.html"
"""Name of the page in the folder of a run."""


@dataclass(frozen=True, kw_only=True)
class View:
    """The frontier of one case with its recommendation, its figure, and notes on its numbers."""

    frontier: Frontier
    advice: Recommendation
    figure: Markup
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the full table.

    Args:
        cell: Record of the audit.
        setting: The defense and its strength, in words.
        leaked: Number of examples that leaked.
        judged: Number of examples that were judged.
        median: Median of the headline's score over examples.
        low: Its 10% quantile.
        high: Its 90% quantile.
        control: Median of the blind control's score.
        measures: Value of each further measure by its heading.
        label: Fraction of labels that were recovered.
    """

    cell: Cell
    setting: str
    leaked: int
    judged: int
    median: float | None
    low: float | None
    high: float | None
    control: float | None
    measures: Mapping[str, float | None]
    label: float | None


def render(records: Sequence[Record], folder: Path, allowed: float = LOSS) -> str:
    """Return the page as HTML text.

    Args:
        records: Records of a run, in any order.
        folder: Folder that the paths of pictures in the records start from.
        allowed: Largest loss of test accuracy, in [0, 1], of a recommended defense.

    Raises:
        DataError: The records have no header.
    """
    run = parse(records)
    album = Album(folder)
    environment = Environment(
        loader=PackageLoader("leakgauge.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = _resource("sort.js")
    headlines = {cell.data.headline.metric for cell in run.cells}
    page = environment.get_template("template.html.j2").render(
        run=run,
        header=run.header,
        facts=_facts(run),
        verdict=leak.verdict(run.cells),
        tallies=_tallies(run),
        failures=failures(run),
        rule=leak.convention(run.header),
        metrics={metric for cell in run.cells for metric in cell.scores} | headlines,
        headlines=headlines,
        side=wording.beyond(cell.data.headline for cell in run.cells),
        cases=gallery.cases(run.cells, album),
        panels=defenses.panels(run.cells, album),
        frontiers=[_view(frontier, allowed, partial=run.partial) for frontier in frontiers(run)],
        rows=[_row(cell) for cell in run.cells],
        licences=dict.fromkeys((c.data.name, c.data.licence) for c in run.cells if c.data.name),
        controls=dict.fromkeys(cell.control.kind for cell in run.cells if cell.control),
        measures=[m for m in MEASURES if any(m.name(cell) for cell in run.cells)],
        networks=_compared(run, sentences=False),
        packages=_compared(run, sentences=True),
        meanings=MEANINGS,
        statuses=wording.STATUS_MEANINGS,
        words=wording,
        formats=FORMATS,
        # These are this package's files, not input, so they are not escaped.
        style=Markup(_resource("style.css")),
        script=Markup(script),
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    return "\n".join(line.rstrip() for line in page.splitlines()) + "\n"


def write_report(folder: str | Path, allowed: float = LOSS) -> Path:
    """Write `folder/report.html` from `folder/records.jsonl` and return its path.

    Use it after `audit`, which writes the records. An existing page is replaced.

    Args:
        folder: Folder of a run.
        allowed: Largest loss of test accuracy, in [0, 1], of a recommended defense. The default is that of the command.

    Returns:
        The path of the page.

    Raises:
        DataError: The records are missing or invalid.
        OutputError: The page cannot be written.

    Example:
        >>> import tempfile
        >>> import leakgauge as lg
        >>> data = lg.data.digits()
        >>> model = lg.models.mlp(data.domain, classes=10, width=8)
        >>> case = lg.Case(name="Digits", data=data, model=model, attacks=[lg.attacks.LinearLayer()])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = lg.audit(case, out=folder)
        ...     lg.write_report(folder).name
        'report.html'
    """
    folder = _folder(folder)
    page = render(read(folder / FILE), folder, allowed)
    path = folder / PAGE
    # mkstemp would make a file that only its owner can read. An ordinary file follows the user's umask.
    temporary = folder / f".{PAGE}.{os.getpid()}"
    try:
        # Names of files may hold lone surrogates, which stand for bytes that are not UTF-8.
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OutputError(
            PAGE,
            expected="a folder that can be written",
            found=(error.strerror or "an error").lower(),
            remedy="free disk space or change the folder's rights, then draw the report again",
        ) from None
    return path


def recommendations(folder: str | Path, allowed: float = LOSS) -> list[Recommendation]:
    """Return a recommendation for each case of a run whose utility was measured.

    Args:
        folder: Folder of a run.
        allowed: Largest loss of test accuracy, in [0, 1], of a recommended defense.

    Raises:
        DataError: The records are missing or invalid, or hold no training.
    """
    folder = _folder(folder)
    records = read(folder / FILE)
    if not any(isinstance(record, Training) for record in records):
        parse(records)
        raise DataError(
            f"run {str(folder)!r}",
            expected="records of trainings, which measure what defenses cost",
            found="none",
            remedy="audit a specification with a section utility: utility = {rounds = 20}",
        )
    run = parse(records)
    return [recommend(frontier, allowed, partial=run.partial) for frontier in frontiers(run)]


def _folder(given: str | Path) -> Path:
    """Return the folder of a run as a Path. Raise DataError unless it is a string or a Path."""
    if not isinstance(given, str | os.PathLike):
        raise DataError(
            "run",
            expected="the path of its folder",
            found=f"an object of type {type(given).__name__}",
            remedy="give the folder that `leakgauge audit` wrote",
        )
    return Path(given)


def _resource(name: str) -> str:
    """Return the text of a file of this package."""
    return resources.files("leakgauge.report").joinpath(name).read_text(encoding="utf-8")


def _facts(run: Run) -> list[tuple[str, str]]:
    """Return the facts that another person needs to repeat the run, each with its name."""
    facts = [
        ("Command", run.header.command),
        ("Root seed", str(run.header.seed)),
        ("Started", run.header.started),
        ("Took", wording.duration(run.seconds)),
        ("Versions", _versions(run.header)),
        ("Machine", _machine(run.header)),
    ]
    return [(name, value or wording.MISSING) for name, value in facts]


def _versions(header: Header) -> str:
    """Return the versions of libraries in words."""
    return ", ".join(f"{name} {version}" for name, version in header.versions)


def _machine(header: Header) -> str:
    """Return the facts of the machine in words."""
    return "; ".join(f"{name}: {_inline(value)}" for name, value in header.machine)


def _inline(value: object) -> str:
    """Return a value in words. Threads and mappings are shown as names and values."""
    if isinstance(value, Threads):
        return f"each cell {value.each_cell}, interop {value.interop}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {entry}" for name, entry in value.items()) or "none"
    return str(value)


def _tallies(run: Run) -> list[tuple[str, str]]:
    """Return the counts at the top of the page, each with its words."""
    judged = [cell for cell in run.cells if cell.verdict.leaks is not None]
    open_ = [cell for cell in judged if cell.undefended]
    defended = [cell for cell in judged if not cell.undefended]
    idle = sum(cell.inapplicable for cell in run.cells)
    failed = sum(cell.failed for cell in run.cells)
    silent = sum(cell.silent for cell in run.cells)
    return [
        (_leaked_of(open_), "undefended audits leaked"),
        (_leaked_of(defended), "defended audits leaked"),
        (f"{len(run.cells)} of {run.planned}", "planned audits are recorded"),
        (str(idle), "inapplicable: did not run"),
        *([(str(failed), "failed: no result")] if failed else []),
        *([(str(silent), "observed an update of zeros (no signal)")] if silent else []),
    ]


def _compared(run: Run, *, sentences: bool) -> list[str]:
    """Return what compared the examples, for sentences or for all other data."""
    cells = [c for c in run.cells if (c.data.layout == "sentences") is sentences]
    return list(dict.fromkeys(cell.perceptual for cell in cells if cell.perceptual))


def _leaked_of(cells: Sequence[Cell]) -> str:
    """Return how many audits leaked and how many there are, in words."""
    leaking = sum(bool(cell.verdict.leaks) for cell in cells)
    return f"{leaking} of {len(cells)}" if cells else "none run"


def _view(frontier: Frontier, allowed: float, *, partial: bool) -> View:
    """Return the frontier of one case for the page."""
    # Several strengths often share one note. The page shows it once.
    reasons = {s.epsilon_note: s.epsilon is not None for s in frontier.settings if s.epsilon_note}
    advice = recommend(frontier, allowed, partial=partial)
    return View(
        frontier=frontier,
        advice=advice,
        figure=frontier_figure.draw(frontier, advice),
        notes=tuple(f"{'Epsilon is ' if known else ''}{text}." for text, known in reasons.items()),
    )


def _row(cell: Cell) -> Row:
    """Return one line of the full table."""
    verdicts = [verdict for verdict in cell.verdict.per_example if verdict is not None]
    metric = cell.data.headline.metric
    values = cell.values(metric)
    return Row(
        cell=cell,
        setting=wording.setting(cell),
        leaked=sum(verdicts),
        judged=len(verdicts),
        median=median(values),
        low=quantile(values, 0.1),
        high=quantile(values, 0.9),
        control=median(cell.blind_values(metric)),
        measures={measure.heading: _summarize(measure, cell) for measure in MEASURES},
        label=_mean(cell.values("label")),
    )


def _summarize(measure: Measure, cell: Cell) -> float | None:
    """Return a measure's value for a whole audit: the mean of a score of 0 or 1, else the median."""
    values = cell.values(measure.name(cell) or "")
    return _mean(values) if measure.binary else median(values)


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of the known values, or None if there are none."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
