"""SPEAR and SPEAR++."""

from collections.abc import Sequence

from tables import figures
from tables.columns import CERTIFIED, SECONDS, labels_right, score
from tables.documents import Document, Row
from tables.page import Page, Plot
from tables.table import Column, Table, compact, split

ATTACKS = {"spear": "SPEAR", "spear_plus_plus": "SPEAR++", "slower steps": "SPEAR++, slower steps"}
DATA = {"mnist": "MNIST", "cifar": "CIFAR-10"}


def whole(rows: Sequence[Row]) -> float:
    """Return how many batches have every image at 60 dB or more."""
    return sum(float(min(row["psnr"])) >= figures.EXACT for row in rows)


COLUMNS = [
    Column("n", figures.length, "number of batches", ".0f"),
    Column("batches exact", whole, "batches with every image at 60 dB or more", ".0f"),
    Column("images", figures.count("psnr"), "images scored", ".0f"),
    Column("images exact", figures.above("psnr", figures.EXACT), "images at 60 dB or more", ".0f"),
    CERTIFIED,
    labels_right(),
    score()[0],
    Column("least dB", figures.least("psnr"), "PSNR of the worst image"),
    SECONDS,
    Column("most s", figures.most("seconds"), "seconds of the slowest attack", compact),
]


def title(row: Row) -> str:
    """Return the heading of a row's table."""
    return f"{ATTACKS[row['attack']]}, {DATA[row['data']]}, width {row['width']}"


def tables(document: Document) -> list[Table]:
    """Return exact search to batch 24, larger batches, then defenses."""
    rows = document.rows
    plain = [row for row in rows if row["defense"] == "none"]
    small = [row for row in plain if row["size"] <= 24]
    large = [row for row in plain if row["size"] > 24]
    rest = [row for row in rows if row["defense"] != "none"]
    by = {"batch": "size", "labels": "labels"}
    return [
        *split(small, title, str, by, COLUMNS),
        *split(large, title, "Large batches: {}".format, by, COLUMNS),
        *split(
            rest, title, "Batches of 8 under defenses: {}".format, {"defense": "defense"}, COLUMNS
        ),
    ]


PAGE = Page(
    title="SPEAR and SPEAR++: whole batches through a ReLU layer",
    asks="Which batches do SPEAR and SPEAR++ recover exactly from the first linear layer and its ReLU?",
    short="Which batches do SPEAR and SPEAR++ recover exactly?",
    theme="Exact attacks",
    done=(
        "MLPs of four layers in float32 on MNIST and CIFAR-10 images, labels all equal or distinct. "
        "Labels are not granted. No control was measured."
    ),
    tables=tables,
    plot=Plot(
        control="",
        across="batch",
        tables=(0, 1, 2, 3),
        alt="PSNR of SPEAR by batch size and labels, on four networks",
    ),
    notes=(
        "A batch is exact if every image has at least 60 dB.",
        "Distinct labels are drawn at random above batch 10, since there are ten classes.",
        "PSNR is capped at 200 dB.",
        "The last row, SPEAR++ at batch 256, was cut.",
        "`slower steps` uses 320 steps and 20 rounds.",
        "[Exact attacks](exact_attacks.md) scores SPEAR beside a control.",
    ),
)
