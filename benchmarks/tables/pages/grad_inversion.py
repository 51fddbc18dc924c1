"""GradInversion, part by part."""

from collections.abc import Callable

from grad_inversion import CELLS, RECIPES, loudest

from tables.columns import LPIPS, RESIDUAL, SECONDS, control, count, score, scored_by
from tables.documents import Document, Row
from tables.page import Page, Plot
from tables.table import Table, split, tabulate

NETWORKS = {
    "resnet20": "trained ResNet-20",
    "mobilenet 64": "MobileNetV1, 64 px",
    "mobilenet 128": "MobileNetV1, 128 px",
}
METRICS = ("psnr", "lpips", "fft2d", "iip_squeeze")
COLUMNS = [count(), *score(center="mean"), control(center="mean"), *LPIPS, RESIDUAL, SECONDS]
FURTHER = [
    count(),
    *scored_by("fft2d", "FFT2D", form=".4f"),
    *scored_by("iip_squeeze", "IIP", form=".2f"),
]


def chosen(row: Row, examples: Callable[[Row], list[int]]) -> Row:
    """Return a row with the scores of some of its examples alone."""
    fields = [side + name for name in METRICS for side in ("", "control_")]
    picked = {f: [row[f][i] for i in examples(row)] for f in fields if f in row}
    return row | picked


def title(row: Row) -> str:
    """Return the heading of a row's table."""
    return f"{NETWORKS[row['network']]}, batch of {row['size']}"


def order(row: Row) -> tuple[int, int]:
    """Return where a row stands."""
    return list(CELLS).index((row["network"], row["size"])), list(RECIPES).index(row["recipe"])


def tables(document: Document) -> list[Table]:
    """Return scores of all examples, of the loudest ones, then further metrics."""
    by = {"recipe": "recipe"}
    loud = [chosen(row, loudest) for row in document.rows]
    whole = split(document.rows, title, str, by, COLUMNS, order)
    several = [row for row in loud if row["size"] > 1]
    most = split(several, title, "The example with the largest loss: {}".format, by, COLUMNS, order)
    keys = {"network and batch": title, "recipe": "recipe"}
    return [
        *whole,
        *most,
        tabulate("Further metrics", document.rows, keys, FURTHER, order),
        tabulate(
            "Further metrics of the example with the largest loss", loud, keys, FURTHER, order
        ),
    ]


PAGE = Page(
    title="GradInversion, part by part",
    asks="What does each part of GradInversion add on trained networks with BatchNorm in eval mode?",
    short="What does each part of GradInversion add on trained networks?",
    theme="What leaks",
    done=(
        "The published ResNet-20 (CIFAR-10) and MobileNetV1 (ImageNet samples), with labels granted. "
        "In each batch, half of the images have a loss of at least 0.1. "
        "The control is the same reconstruction scored against other images of the same labels, the mean of 5 draws."
    ),
    tables=tables,
    plot=Plot(
        low="",
        high="",
        tables=(0, 1, 2, 3),
        alt="PSNR of each recipe by network and batch size, with the control",
    ),
    figures=(
        "![Originals, reconstructions and the control's images of two batches, by recipe](../ablation.png)",
        "`benchmarks/ablation_figure.py` draws this figure from the rows that kept pictures.",
    ),
    notes=(
        "Each line adds a part: the gradient alone (cosine distance), "
        "fidelity (total variation, l2, BatchNorm's running statistics), a lazy group, a registered group.",
        "A group keeps three restarts close to their mean: plain (lazy) or registered. "
        "These lines share steps, restarts and seeds. "
        "Our own attack runs by its defaults.",
        "If a network is sure of an example, the example has almost no gradient. The example with "
        "the largest loss dominates the gradient of the batch.",
        "Each search has 200 steps (60 at 128 px) and three restarts.",
        "IIP is the fraction of reconstructions whose features are nearest to those of their "
        "original, among all images of the data. There are 119 other images of CIFAR-10, or 59 of "
        "ImageNet. Features are SqueezeNet's.",
        "A lower LPIPS or FFT2D means a closer reconstruction. LPIPS uses SqueezeNet.",
        "Only 9 of the first 60 test images have a loss of 0.1 or more, so batches share these images.",
        "Weights, rate and noise were chosen on the other 60 images, from few values each. "
        "MobileNet uses the same ones.",
        "Seconds are CPU seconds of the process, on one thread.",
    ),
    takes="45 to 160 s of CPU for each row",
)
