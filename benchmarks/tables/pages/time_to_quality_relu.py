"""Time to a given quality: ReLU networks."""

from collections.abc import Callable, Sequence

from time_to_quality_relu import EAGER, OURS, attained
from time_to_quality_relu import reached as since

from tables.documents import Document, Row
from tables.figures import Figure
from tables.page import Page, Plot
from tables.table import Column, Table, compact, split

NAMES = {
    "resnet20": "ResNet-20, trained: smoothed matching",
    "convnet": "ConvNet of width 64: peeling",
}


def both(rows: Sequence[Row]) -> tuple[Row, Row] | None:
    """Return the rows of signed Adam and of our attack, or None if one is missing."""
    found = {row["method"]: row for row in rows}
    ours = OURS[rows[0]["model"]][0]
    return (found[EAGER], found[ours]) if EAGER in found and ours in found else None


def best(rows: Sequence[Row]) -> float | None:
    """Return signed Adam's best PSNR."""
    pair = both(rows)
    return attained(pair[0]["course"])[0] if pair else None


def best_at(rows: Sequence[Row]) -> float | None:
    """Return after how many seconds signed Adam has its best PSNR."""
    pair = both(rows)
    return attained(pair[0]["course"])[1] if pair else None


def ours_at(rows: Sequence[Row]) -> float | None:
    """Return after how many seconds our attack has that PSNR, infinite if never."""
    pair = both(rows)
    if pair is None:
        return None
    found = since(pair[1]["course"], attained(pair[0]["course"])[0])
    return float("inf") if found is None else found


def ratio(rows: Sequence[Row]) -> float | None:
    """Return the ratio of these seconds, 0 if our attack never has that PSNR."""
    theirs, ours = best_at(rows), ours_at(rows)
    return None if theirs is None or ours is None else theirs / ours


def of_method(whose: str, number: Callable[[Row], float]) -> Figure:
    """Return the figure of one run: "ours" or "theirs"."""

    def figure(rows: Sequence[Row]) -> float | None:
        wanted = EAGER if whose == "theirs" else OURS[rows[0]["model"]][0]
        return next((number(row) for row in rows if row["method"] == wanted), None)

    return figure


def end(row: Row) -> float:
    """Return the PSNR at the end of a run."""
    return float(row["course"][-1][2])


def seconds(row: Row) -> float:
    """Return the seconds of a run."""
    return float(row["seconds"])


COLUMNS = [
    Column("ours dB", of_method("ours", end), "our PSNR at the end of the run"),
    Column("our s", of_method("ours", seconds), "seconds of our run", compact),
    Column(
        "Adam's dB", of_method("theirs", end), "PSNR of signed Adam at the end of its 4000 steps"
    ),
    Column("Adam's s", of_method("theirs", seconds), "seconds of signed Adam's run", compact),
    Column("Adam's best dB", best, "best PSNR of signed Adam on its way"),
    Column("Adam's s to best", best_at, "seconds until signed Adam has its best", compact),
    Column(
        "our s to that",
        ours_at,
        "seconds until our attack reaches Adam's best. ∞ stands for never",
        compact,
    ),
    Column("ratio", ratio, "Adam's seconds to its best over ours. 0 stands for never", ".1f"),
]


def tables(document: Document) -> list[Table]:
    """Return one table for each network."""
    return split(document.rows, lambda row: NAMES[row["model"]], str, {"image": "image"}, COLUMNS)


PAGE = Page(
    title="Time to a given quality: ReLU networks",
    asks="How soon does our attack reach the best quality of signed Adam on ReLU networks?",
    short="How soon do we reach signed Adam's best on ReLU networks?",
    theme="What leaks",
    done=(
        "The networks are a trained ResNet-20 and a ConvNet of width 64, at batch 1 with the label "
        "granted. Signed Adam (Inverting Gradients) has 4000 steps. No control was measured."
    ),
    tables=tables,
    plot=Plot(
        value="ours dB",
        other="Adam's best dB",
        control="",
        low="",
        high="",
        alt="PSNR of our attack and the best of signed Adam for each image",
    ),
    notes=(
        "Rows named eager in the JSON did not run the eager step. By a fault of the script, the "
        "engine chose the step, and the notes of the ConvNet rows say `traced`. So signed Adam was "
        "as fast as our step could make it. The script now forces the eager step.",
        "Our settings were chosen on one of the five images of ResNet-20. On one of the five, our "
        "attack never reaches Adam's best.",
        "Images are the first whose update has a norm of at least 1, which the adversary sees.",
        "The weight of signed Adam's total variation on ResNet-20 is the best of 0.01, 0.1 and "
        "1 at 800 steps on image 5. "
        "That on ConvNet was not tuned.",
        "Seconds are CPU seconds of the process, on one thread. For ratios use `--workers 1`.",
        "The run was cut. ConvNet has signed Adam on two of three images.",
        "[Exact attacks](exact_attacks.md) scores peeling beside a control.",
    ),
    takes="2 to 30 min for each run",
    command=" --workers 1",
)
