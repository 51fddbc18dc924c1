"""How the update of a near image differs."""

from near_images import LEVELS, STABLE, STEPS

from tables import figures
from tables.columns import count
from tables.documents import Document
from tables.page import Page
from tables.table import Column, Table, fraction, tabulate


def _columns(kind: str, meaning: str) -> list[Column]:
    """Return a column for each level."""
    return [
        Column(
            f"{kind.split()[0]}, {level} dB",
            figures.median(f"{kind} {level}"),
            f"{meaning} at {level} dB",
            fraction,
        )
        for level in LEVELS
    ]


def tables(document: Document) -> list[Table]:
    """Return the errors of gradients, and of the drift of local steps."""
    by = {"network": "network", "state": "state"}
    some = [row for row in document.rows if row["network"] == STABLE]
    whole = Column("drift", figures.median("drift"), "median drift", fraction)
    return [
        tabulate(
            "Error of the gradient",
            document.rows,
            by,
            [
                count("gradient 30", "images"),
                *_columns("gradient", "median relative error of the gradient"),
            ],
        ),
        tabulate(
            "Error of the drift",
            some,
            by,
            [
                count("drift", "images"),
                whole,
                *_columns("drift error", "median error of the drift"),
            ],
        ),
    ]


PAGE = Page(
    title="The update of an image that is almost right",
    asks="How much does the update differ if the image is nearly the private one?",
    short="How much does the update of a nearly right image differ?",
    theme="Exact attacks",
    done=(
        "White noise moves a private image to a PSNR. The table compares its gradient with the private one. "
        f"The drift is what {STEPS} local steps add beyond one gradient at the mean of the first and last model."
    ),
    tables=tables,
    notes=(
        "All errors are relative to the norm of the gradient.",
        "An image 10 dB closer has a tenth of the squared error, but its gradient has only a third. The masks "
        "of ReLUs change where values are near 0, and their share falls with the error, not with its square.",
    ),
)
