"""Softmax unmixing: features from the last layer alone."""

from collections.abc import Sequence

from unmixing import READ, STATES

from tables import figures
from tables.documents import Document, Row
from tables.page import Page, Plot
from tables.table import Column, Table, compact, split, tabulate
from tables.words import network


def whole(rows: Sequence[Row]) -> float:
    """Return how many batches have every example read."""
    return sum(all(value <= READ for value in row["error"]) for row in rows)


COLUMNS = [
    Column("n", figures.length, "number of batches", ".0f"),
    Column("batches read", whole, "batches whose examples are all recovered", ".0f"),
    Column("examples", figures.count("error"), "number of examples", ".0f"),
    Column(
        "read",
        figures.below("error", READ),
        "examples whose features have a relative error of 1e-2 or less",
        ".0f",
    ),
    Column(
        "rank",
        figures.total("rank"),
        "examples that stand out from rounding errors: the sum of ranks",
        ".0f",
    ),
    Column("claimed", figures.total("found"), "examples that the attack claims", ".0f"),
    Column(
        "wrong", figures.total("wrong"), "claimed examples whose relative error is above 0.1", ".0f"
    ),
    Column("error", figures.median("error"), "median relative error of the features", ".0e"),
    Column(
        "of spread",
        figures.median("spread_error"),
        "median error of the features, divided by their distance from the mean features",
        ".0e",
    ),
    Column("s", figures.median("seconds"), "median CPU seconds", compact),
]


def goals(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of float32 and granted labels, with what the network has learned and the batch's range."""
    found = []
    for state in (*STATES, "trained"):
        for low, high in ((2, 4), (5, 8)):
            found += [
                row | {"state": state, "range": f"{low} to {high}"}
                for row in rows
                if row["network"].endswith(f" {state}")
                and row["precision"] == "float32"
                and row["granted"]
                and low <= row["batch"] <= high
            ]
    return found


def tables(document: Document) -> list[Table]:
    """Return a summary, then float32 by network, other precisions, and withheld labels."""
    rows = document.rows
    plain = [row for row in rows if row["precision"] == "float32" and row["granted"]]
    rounded = [row for row in rows if row["precision"] != "float32"]
    withheld = [row for row in rows if not row["granted"]]
    by = {"labels": "labels", "batch": "batch"}
    return [
        tabulate(
            "All networks, float32", goals(rows), {"state": "state", "batch": "range"}, COLUMNS
        ),
        *split(plain, lambda row: network(row["network"]), "{}, float32".format, by, COLUMNS),
        *split(
            rounded,
            lambda row: network(row["network"]),
            "{}, other gradients, batch of 4".format,
            {"gradient": "precision", "labels": "labels"},
            COLUMNS,
        ),
        tabulate(
            "Labels withheld, float32, batch of 4",
            withheld,
            {"network": lambda row: network(row["network"]), "labels": "labels"},
            COLUMNS,
        ),
    ]


PAGE = Page(
    title="Softmax unmixing: features from the last layer",
    asks="Does the last layer's gradient alone give away every example's features?",
    short="Does the last layer alone give away every example's features?",
    theme="Exact attacks",
    done=(
        "LeNet, ConvNet, ResNet-20 and MobileNetV1 with 1000 classes, untrained, after 1 and 3 epochs, and published. "
        "Labels are all equal, distinct or Zipf. An error is relative to the true features, so there is no control."
    ),
    tables=tables,
    plot=Plot(
        value="error",
        control="",
        low="",
        high="",
        tables=(0,),
        axis="median relative error of the features",
        log=True,
        alt="Median relative error of features by state of the network and batch size",
    ),
    notes=(
        "An example counts as read (recovered) if its features' relative error is 1e-2 or less.",
        "Features of one label on ConvNet differ by less than float32 resolves.",
        "bfloat16 rounds the last layer's gradient. "
        "Noise is Gaussian, in units of the root mean square of the last weight's gradient, and known to the attack.",
        "The run was cut before its last rows.",
        "Seconds are CPU seconds of one attack, on a machine with up to five other processes.",
    ),
    takes="not recorded",
)
