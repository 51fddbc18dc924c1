"""Time to a given quality: LeNet."""

from collections.abc import Sequence

from tables import figures
from tables.columns import SECONDS, score
from tables.documents import Document, Row
from tables.page import Page, Plot
from tables.table import Column, Table, compact, split


def reached(level: str) -> Column:
    """Return the column of how many runs reach a level."""
    return Column(
        f"≥ {level} dB",
        lambda rows: sum(row["reached"][level] is not None for row in rows),
        f"runs that reach {level} dB",
        ".0f",
    )


def when(level: str) -> Column:
    """Return the column of when they reach it."""

    def figure(rows: Sequence[Row]) -> float | None:
        done = [{"at": row["reached"][level][1]} for row in rows if row["reached"][level]]
        return figures.median("at")(done)

    return Column(
        f"s to {level} dB", figure, f"median seconds of runs that reach {level} dB", compact
    )


COLUMNS = [
    Column("n", figures.length, "runs", ".0f"),
    *(column for level in ("30", "60") for column in (reached(level), when(level))),
    *score(),
    SECONDS,
]


def tables(document: Document) -> list[Table]:
    """Return one table for known labels, and one for unknown ones."""
    return split(
        document.rows,
        lambda row: "Label granted" if row["known"] else "Label unknown",
        str,
        {"attack": "method"},
        COLUMNS,
        lambda row: not row["known"],
    )


PAGE = Page(
    title="Time to a given quality: LeNet",
    asks="How often, and after how many seconds, does an attack reach 30 and 60 dB on LeNet at batch 1?",
    short="How often and how fast do attacks reach 30 and 60 dB on LeNet?",
    theme="What leaks",
    done=(
        "The runs are ten CIFAR-10 images with three seeds each. L-BFGS and signed Adam run as in "
        "their papers, beside our second-order attack. No control was measured."
    ),
    tables=tables,
    plot=Plot(control="", alt="PSNR of each attack at its end, with quartiles over runs"),
    notes=(
        "A level counts as reached at the first snapshot that reaches it.",
        "The seed draws the model and the start of a run.",
        "The run was cut. Our attacks ran first, so their lines are complete.",
        "[Inverting Gradients](inverting_gradients.md) scores second order on LeNet beside a control.",
    ),
    takes="about 25 s for each run",
)
