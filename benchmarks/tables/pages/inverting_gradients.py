"""Inverting Gradients' table."""

from collections.abc import Sequence

from inverting_gradients import METHODS, PUBLISHED

from tables.columns import LPIPS, RESIDUAL, SECONDS, SSIM, control, count, score
from tables.documents import Document, Row
from tables.page import Page, Plot
from tables.table import Column, Table, split, tabulate

NETWORKS = {"lenet": "LeNet", "resnet20": "ResNet-20"}


def published(rows: Sequence[Row]) -> float | None:
    """Return the PSNR that the paper prints."""
    found = PUBLISHED[rows[0]["network"], rows[0]["state"]].get(rows[0]["method"])
    return None if found is None else float(found)


COLUMNS = [
    count(),
    *score(center="mean"),
    control(center="mean"),
    Column(
        "published dB", published, "what the paper prints, for a network four times as wide", ".2f"
    ),
    RESIDUAL,
    SECONDS,
]


def order(row: Row) -> tuple[object, ...]:
    """Return where a row stands."""
    return row["network"], row["state"] == "trained", METHODS.index(row["method"])


def tables(document: Document) -> list[Table]:
    """Return one table for each network and state."""
    by = {"network": title, "attack": "method"}
    return [
        *split(document.rows, title, str, {"attack": "method"}, COLUMNS, order),
        tabulate("Further metrics", document.rows, by, [count(), *SSIM, *LPIPS], order),
    ]


def title(row: Row) -> str:
    """Return the heading of a row's table."""
    return f"{NETWORKS[row['network']]}, {row['state']}"


PAGE = Page(
    title="Inverting Gradients: trained and untrained networks",
    asks="How well does gradient matching reconstruct one image from trained and untrained networks?",
    short="How well is one image reconstructed from trained and untrained networks?",
    theme="What leaks",
    done=(
        "LeNet with sigmoid and ResNet-20 at batch 1, with labels granted: the paper's two attacks and ours. "
        "The control is the same reconstruction scored against other images of the same label, the mean of 5 draws."
    ),
    tables=tables,
    plot=Plot(alt="PSNR of three attacks by network, with the control"),
    notes=(
        "Ours is second order on LeNet, and smoothed matching on ResNet-20.",
        "The paper's ResNet-20 is four times as wide. Its LeNet numbers are from its own LeNet.",
        "LeNet: 2400 evaluations of signed Adam and 1200 of L-BFGS. ResNet-20: 600 and 300. "
        "The paper has 24,000 and restarts.",
        "LeNet was trained for 15 epochs on 4000 images. It classifies 39% of the test images correctly. "
        "The trained ResNet-20 is the published one.",
        "The weights of total variation are powers of ten: the best ones on two images that are "
        "not in the tables.",
        "The run was cut. Images are in order, so each line has 11 or 12 of 20.",
    ),
    takes="about 3 min for each image",
)
