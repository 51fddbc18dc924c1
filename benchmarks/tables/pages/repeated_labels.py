"""Equal labels in a batch of 4."""

from repeated_labels import PUBLISHED

from tables import figures
from tables.columns import LPIPS, SECONDS, SSIM, control, count, score
from tables.documents import Document, Row
from tables.page import Page, Plot
from tables.table import Column, Table, split, tabulate

COLUMNS = [
    count(),
    *score(center="mean"),
    Column("least dB", figures.least("psnr"), "PSNR of the worst image"),
    control(center="mean"),
    Column(
        "published dB",
        lambda rows: PUBLISHED[rows[0]["equal"]],
        "PSNR that the paper prints, for another network and recipe",
        ".2f",
    ),
    SECONDS,
]


def tables(document: Document) -> list[Table]:
    """Return one table for each attack."""
    rows, by = document.rows, {"attack": "method", "equal labels": "equal"}
    return [
        *split(rows, "method", str.capitalize, {"equal labels": "equal"}, COLUMNS, order),
        tabulate("Further metrics", rows, by, [count(), *SSIM, *LPIPS], order),
    ]


def order(row: Row) -> tuple[str, int]:
    """Return where a row stands."""
    return row["method"], row["equal"]


PAGE = Page(
    title="Equal labels in a batch of 4",
    asks="How much do equal labels in a batch protect its images?",
    short="How much do equal labels in a batch protect its images?",
    theme="What leaks",
    done=(
        "LeNet on CIFAR-10, batches of 4 with none, two, three or all labels equal, granted without their order. "
        "Each line has five batches. "
        "The control is the same reconstruction scored against other images of the same labels."
    ),
    tables=tables,
    plot=Plot(alt="PSNR by the number of equal labels, with the control"),
    notes=(
        "Softmax unmixing first recovers each example's features. It then runs the second-order descent.",
        "The published numbers are of another network and a recipe that restores labels. "
        "Compare how the numbers fall from none to four equal labels, not the numbers themselves.",
        "The JSON may name a commit before that of the script. What was measured did not change.",
    ),
    takes="40 s of CPU for each row",
)
