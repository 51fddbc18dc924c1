"""The closed form of the first linear layer."""

from collections.abc import Sequence

from tables import figures
from tables.columns import CERTIFIED, ROWS, SECONDS, control, count, labels_right, score
from tables.documents import Document, Row
from tables.page import Page, Plot
from tables.table import Column, Table, split, tabulate

BLIND = "the same attack on the update of other examples"


def read(rows: Sequence[Row]) -> float:
    """Return how many examples the attack claims and has at 60 dB or more."""
    pairs = zip(figures.values(rows, "found"), figures.values(rows, "psnr"), strict=True)
    return sum(bool(found) and psnr >= figures.EXACT for found, psnr in pairs)


IMAGES = [
    count(),
    Column("read", read, "images that the attack claims, at 60 dB or more", ".0f"),
    *score(),
    control(what=BLIND),
    CERTIFIED,
    labels_right(),
    SECONDS,
]


def percent(field: str) -> figures.Figure:
    """Return the mean of a fraction, in percent."""
    return lambda rows: 100 * (figures.mean(field)(rows) or 0.0)


RECORDS = [
    Column("records", figures.count("columns_read"), "number of records", ".0f"),
    Column(
        "columns read, %",
        percent("columns_read"),
        "mean over records of the percentage of columns that are recovered to within 1% of their range",
    ),
    Column("control, %", percent("control_columns_read"), f"mean of the blind control: {BLIND}"),
    ROWS,
    CERTIFIED,
    SECONDS,
]


def tables(document: Document) -> list[Table]:
    """Return images by width, then patients' records."""
    images = [row for row in document.rows if row["kind"] == "image"]
    records = [row for row in document.rows if row["kind"] == "table"]
    by = {
        "batch": "batch",
        "labels": lambda row: "all equal" if row["labels"] == "all equal" else "own",
    }
    found = split(images, "width", "Images, MLP of width {}".format, by, IMAGES)
    columns = [column for column in RECORDS if column is not ROWS]
    batches = Column("batches", figures.length, "number of batches", ".0f")
    return [
        *found,
        tabulate(
            "Diabetes records, MLP of width 64", records, {"batch": "batch"}, [*columns, batches]
        ),
    ]


PAGE = Page(
    title="The first linear layer in closed form",
    asks="What does the gradient of a network's first linear layer give away in closed form?",
    short="What does the first linear layer give away in closed form?",
    theme="Exact attacks",
    done=(
        "MLPs of four layers in float32 on CIFAR-10 images and on patients' records. "
        "The control is the same attack on the update of other examples, disjoint from those it is scored against."
    ),
    tables=tables,
    plot=Plot(
        across="batch",
        log=True,
        tables=(0, 1),
        alt="PSNR by batch size and labels, with the control dotted",
    ),
    notes=(
        "An example counts as read (recovered) if the attack claims it and its PSNR is at least 60 dB.",
        "Batches that are too large for the data set have a control of uniform random images.",
        "PSNR is capped at 200 dB.",
        "A label that the attack does not return counts as not recovered.",
    ),
)
