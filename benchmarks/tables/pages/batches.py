"""Batches of LeNet by gradient matching."""

from collections.abc import Sequence

from batches import overtaken

from tables import figures
from tables.columns import RESIDUAL, SECONDS, count, score
from tables.documents import Document, Row
from tables.page import Page, Plot
from tables.table import Column, Table, compact, split


def columns(every: list[Row]) -> list[Column]:
    """Return the columns. The time to another attack's best needs all rows."""

    def best(rows: Sequence[Row]) -> float | None:
        return figures.median("at")(
            [{"at": max(row["course"], key=lambda at: at[2])[1]} for row in rows]
        )

    def passed(rows: Sequence[Row]) -> float | None:
        return figures.median("at")([{"at": overtaken(row, every)} for row in rows])

    return [
        count(),
        *score(),
        RESIDUAL,
        Column("s to best", best, "median seconds to the best mean PSNR of a run", compact),
        Column(
            "s to L-BFGS's best",
            passed,
            "median seconds to the best mean PSNR of L-BFGS on the same batch. ∞ stands for never",
            compact,
        ),
        SECONDS,
        Column(
            "least rank", figures.least("rank"), "lowest rank of the Jacobian over batches", ".0f"
        ),
        Column(
            "highest rank", figures.most("rank"), "highest rank of the Jacobian over batches", ".0f"
        ),
        Column(
            "unknowns", figures.median("unknowns"), "number of unknown pixels and labels", ".0f"
        ),
        Column(
            "collisions",
            lambda rows: (
                sum(row["verdict"] == "collision" for row in rows)
                if any(row["verdict"] for row in rows)
                else None
            ),
            "batches for which the attack says that other batches have the same update",
            ".0f",
        ),
    ]


def tables(document: Document) -> list[Table]:
    """Return one table for each batch size."""
    by = {"labels": lambda row: "equal" if row["equal"] else "distinct", "attack": "method"}
    return split(
        document.rows,
        "size",
        "Batches of {}".format,
        by,
        columns(document.rows),
        lambda row: (row["size"], row["equal"], row["method"]),
    )


PAGE = Page(
    title="Batches of LeNet by gradient matching",
    asks="How well are batches of 2, 4 and 8 images reconstructed, and do other batches fit the update too?",
    short="How well are LeNet's batches of 2, 4 and 8 reconstructed?",
    theme="What leaks",
    done=(
        "LeNet with sigmoid, CIFAR-10 images with distinct or equal labels. "
        "Labels are granted without their order. Five batches a line. The rows hold no control."
    ),
    tables=tables,
    plot=Plot(control="", alt="PSNR of each attack by batch size and labels, with quartiles"),
    notes=(
        "The attack of second order says whether other batches fit: "
        "a rank below the number of unknowns means that they do (`collisions`).",
        "Softmax unmixing first reads each example's features from the last layer, then runs "
        "the attack of second order. "
        "It runs where labels are equal.",
        "This benchmark has no blind control. [Repeated labels](repeated_labels.md) attacks "
        "similar batches beside one.",
    ),
    takes="1 to 3 min for each run",
)
