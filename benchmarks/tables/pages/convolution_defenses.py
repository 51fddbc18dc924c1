"""Defenses that shift consistency suggests, with their price."""

from convolution_defenses import DEFENSES, EPOCHS, LEVEL, SIZE

from tables import figures
from tables.columns import SECONDS, control, count
from tables.documents import Document
from tables.page import Page
from tables.table import Column, Table, fraction, tabulate


def tables(document: Document) -> list[Table]:
    """Return the leak and the price of each defense."""
    leaks = [row for row in document.rows if row["part"] == "leak"]
    prices = [row for row in document.rows if row["part"] == "price"]
    leak = [
        count(),
        Column(
            "feature error",
            figures.median("error"),
            "median relative error of the inputs of the layer where the descent begins",
            fraction,
        ),
        Column("dB", figures.median("psnr"), "median PSNR over the n images"),
        control(),
        Column(
            "refused",
            figures.equal("status", "inapplicable"),
            "updates that the attack cannot read",
            ".0f",
        ),
        SECONDS,
    ]
    price = [
        Column("networks", figures.length, "number of trained networks", ".0f"),
        Column(
            "least accuracy", figures.least("accuracy"), "least accuracy on held-out images", ".3f"
        ),
        Column(
            "largest accuracy",
            figures.most("accuracy"),
            "largest accuracy on held-out images",
            ".3f",
        ),
    ]
    by = {"defense": "defense"}
    return [
        tabulate("What leaks", leaks, by, leak, lambda row: DEFENSES.index(row["defense"])),
        *(
            [tabulate("Price", prices, by, price, lambda row: DEFENSES.index(row["defense"]))]
            if prices
            else []
        ),
    ]


PAGE = Page(
    title="Defenses of convolutional networks against exact inversion",
    asks="Which designs and noises protect the inputs of convolutions, and what do they cost?",
    short="Which designs protect the inputs of convolutions, and at what cost?",
    theme="Exact attacks",
    done=(
        f"Shift consistency on the gradient of an untrained residual network of width 16, at {SIZE} images "
        f"of one label. Accuracy is on 1000 images, after {EPOCHS} epochs on 3000 others. "
        "The control is the same reconstruction scored against other images of the same labels."
    ),
    tables=tables,
    notes=(
        f"Noise of {LEVEL} is in units of the root mean square of the whole gradient. It is on each gradient "
        "of the training, too.",
        "Noise in the row space of a gradient does not change the row space, so it protects no features.",
        "Other attacks may succeed where this one is refused.",
    ),
)
