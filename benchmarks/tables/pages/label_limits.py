"""What limits label counts."""

from collections.abc import Sequence

from tables import figures
from tables.documents import Document, Row
from tables.page import Page, Plot
from tables.table import Column, Table, split
from tables.words import network

GRANTED = {
    "rest al": "labels of the loudest granted, the rest guessed equally",
    "rest in": "labels of the loudest granted, the rest in proportion",
    "visible": "labels of all visible examples granted",
}
"""What is granted on trained networks, by a part of the oracles' names."""
LABELS = {"drawn": "as drawn", "equal": "all equal", "zipf": "Zipf"}


def oracle(name: str) -> figures.Figure:
    """Return the percentage of one oracle."""
    return lambda rows: 100 * float(rows[0]["oracles"][name])


def columns(rows: Sequence[Row], part: str) -> list[Column]:
    """Return the columns of some oracles: those whose name ends in `part`, or all."""
    n = Column("n", figures.total("draws"), "number of batches", ".0f")
    oracles = list(rows[0]["oracles"])
    blind = next(name for name in oracles if name.startswith("all classes"))
    names = [name for name in oracles if part in name and name != blind]
    return [
        n,
        *(Column(head(name), oracle(name)) for name in names),
        Column("control", oracle(blind)),
    ]


def head(name: str) -> str:
    """Return the heading of an oracle: what it is granted."""
    loudest = name.partition(" told, rest")
    if loudest[1]:
        return f"{loudest[0]} loudest"
    return name.replace("ilrg", "iLRG").replace("told", "granted")


def tables(document: Document) -> list[Table]:
    """Return one table for each network, two for the trained ones."""
    by = {"batch": "batch", "labels": lambda row: LABELS[row["labels"]]}
    sure = [row for row in document.rows if "20 trained" in row["network"]]
    rest = [row for row in document.rows if row not in sure]
    found = split(rest, lambda row: network(row["network"]), str, by, columns(rest, ""))
    if sure:
        for part, words in GRANTED.items():
            found += split(
                sure,
                lambda row: network(row["network"]),
                f"{{}}: {words}".format,
                by,
                columns(sure, part),
            )
    return found


PAGE = Page(
    title="What limits label counts",
    asks="What more would a method have to know to count labels correctly?",
    short="What would it take to count labels correctly?",
    theme="Labels",
    done=(
        "An oracle is a method that is granted something that no update reveals. Numbers are percentages of label "
        "instances, means over draws. "
        "The control guesses all classes equally often."
    ),
    tables=tables,
    plot=Plot(
        value="iLRG, class means granted",
        other="iLRG",
        control="control",
        low="",
        high="",
        tables=(0, 1, 2),
        axis="label instances counted right, %",
        alt="Percentage of instances of iLRG with and without class means, with the control",
    ),
    notes=(
        "On untrained networks, and after one epoch: iLRG alone, and iLRG that is granted each "
        "class's mean features. "
        "Two more oracles are granted the mean answer over all images, or that of the batch.",
        "On trained networks: the labels of 4 to 48 examples are granted: those whose loss has the "
        "largest slope at an output (`loudest`). The other labels are guessed equally often, or in proportion to the "
        "granted ones.",
        "Visible examples are those whose slope changes an entry of the float32 gradient.",
        "The last layer's 9 times 65 free entries can fix 9 examples.",
    ),
    takes="3 min",
)
