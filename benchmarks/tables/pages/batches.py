"""Batches of LeNet by gradient matching."""

from collections.abc import Sequence

from batches import overtaken

from tables import figures
from tables.columns import RESIDUAL, SECONDS, count, score
from tables.documents import Document, Row
from tables.page import Page, Plot
from tables.table import Column, Table, compact, split, tabulate

QUALITY = [count(), *score(), RESIDUAL, SECONDS]
OPEN = [
    Column("batches", figures.count("rank"), "number of batches", ".0f"),
    Column("least rank", figures.least("rank"), "lowest rank of the Jacobian over batches", ".0f"),
    Column(
        "highest rank", figures.most("rank"), "highest rank of the Jacobian over batches", ".0f"
    ),
    Column("unknowns", figures.median("unknowns"), "number of unknown pixels", ".0f"),
    Column(
        "collisions",
        figures.equal("verdict", "collision"),
        "batches for which the attack says that other batches have the same update",
        ".0f",
    ),
]


def times(every: Sequence[Row]) -> list[Column]:
    """Return the columns of times. The time to another attack's best needs all rows."""

    def best(rows: Sequence[Row]) -> float | None:
        when = [{"at": max(row["course"], key=lambda at: at[2])[1]} for row in rows]
        return figures.median("at")(when)

    def passed(rows: Sequence[Row]) -> float | None:
        return figures.median("at")([{"at": overtaken(row, list(every))} for row in rows])

    about = "median seconds to the best mean PSNR of L-BFGS on the same batch. ∞ stands for never"
    return [
        Column("s to best", best, "median seconds to the best mean PSNR of a run", compact),
        Column("s to L-BFGS's best", passed, about, compact),
    ]


def order(row: Row) -> tuple[object, ...]:
    """Return where a row stands."""
    return row["size"], row["equal"], row["method"]


def tables(document: Document) -> list[Table]:
    """Return one table for each batch size, then times, then what an update leaves open."""
    rows = document.rows
    by = {"labels": lambda row: "equal" if row["equal"] else "distinct", "attack": "method"}
    keys = {"batch": "size", **by}
    ranked = [row for row in rows if row["rank"] is not None]
    return [
        *split(rows, "size", "Batches of {}".format, by, QUALITY, order),
        tabulate("Times", rows, keys, times(rows), order),
        tabulate("What the update leaves open", ranked, keys, OPEN, order),
    ]


PAGE = Page(
    title="Batches of LeNet by gradient matching",
    asks="How well are batches of 2, 4 and 8 images reconstructed, and do other batches fit the update too?",
    short="How well are LeNet's batches of 2, 4 and 8 reconstructed?",
    theme="What leaks",
    done=(
        "The model is LeNet with sigmoid, on CIFAR-10 images with distinct or equal labels. Labels "
        "are granted without their order. Each line of a table summarizes five batches. No control "
        "was measured."
    ),
    tables=tables,
    plot=Plot(
        control="",
        tables=(0, 1, 2),
        alt="PSNR of each attack by batch size and labels, with quartiles",
    ),
    notes=(
        "The second-order attack reports whether other batches have the same update. They do if "
        "the rank of the Jacobian is below the number of unknowns (`collisions`).",
        "Softmax unmixing first recovers each example's features from the last layer, then runs "
        "the second-order attack. It was run on equal labels only.",
        "This benchmark has no blind control. [Repeated labels](repeated_labels.md) measures "
        "similar batches with a control.",
    ),
    takes="1 to 3 min for each run",
)
