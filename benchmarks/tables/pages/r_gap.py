"""R-GAP and its rank index."""

from r_gap import READ

from tables import figures
from tables.columns import SECONDS, control, count, exact, score
from tables.documents import Document, Row
from tables.page import Page, Plot
from tables.table import Column, Table, tabulate

LEAST = Column("least dB", figures.least("psnr"), "PSNR of the worst image")
INDEX = [
    Column(
        "index", figures.median("index"), "lowest rank index of the layers, 0 if determined", ".0f"
    ),
    Column(
        "open",
        figures.median("open"),
        "unknowns that no equations of earlier layers determine",
        ".0f",
    ),
]
FIRST = [count(), *score(), LEAST, control(), exact(least=READ), SECONDS]


def foretold(rows: list[Row]) -> dict[str, str]:
    """Return for each architecture whether the index predicted its PSNR."""
    found = {}
    for name in dict.fromkeys(row["architecture"] for row in rows):
        group = [row for row in rows if row["architecture"] == name]
        quality = figures.median("psnr")(group) or 0.0
        found[name] = "yes" if (group[0]["index"] == 0) == (quality >= READ) else "no"
    return found


def tables(document: Document) -> list[Table]:
    """Return CNN6, then every architecture."""
    first = [row for row in document.rows if row["part"] != "architectures"]
    rest = [row for row in document.rows if row["outputs"] == 10 and row["rows"] != "plain"]
    right = foretold(rest)
    by = {
        "architecture": "architecture",
        "at layer": lambda row: row["layer"] or "–",
        "predicted": lambda row: right[row["architecture"]],
    }
    return [
        tabulate(
            "CNN6",
            first,
            {"network and equations": lambda row: f"{row['part']}, {row['rows']}"},
            FIRST,
        ),
        tabulate(
            "Rank index by architecture", rest, by, [*INDEX, count(), *score(), LEAST, control()]
        ),
    ]


PAGE = Page(
    title="R-GAP and its rank index",
    asks="How exact is R-GAP, and does the rank index predict where it works?",
    short="How exact is R-GAP, and does the rank index predict it?",
    theme="Exact attacks",
    done=(
        "Batch 1, gradients in float32, CIFAR-10: CNN6 of ten outputs and of one output with the logistic loss. "
        "Then architectures of other strides, kernels, channels, depths and activations. "
        "The control is the same reconstruction scored against the next image."
    ),
    tables=tables,
    plot=Plot(keys=1, alt="PSNR of R-GAP on CNN6 and on each architecture, with the control"),
    notes=(
        "`plain` stacks a layer's equations as the paper does. "
        "`balanced` divides the gradient's and the weight's equations by the norms of their right sides.",
        "`index` is the lowest rank index of all layers, and `at layer` names this layer. The "
        "index is 0 if all inputs are determined. It is computed on a random input, before any "
        "update is observed.",
        "`open` counts unknowns that the equations of earlier layers do not determine either.",
        "`predicted` is yes if the index is 0 and the PSNR is at least 45 dB, or if the index is "
        "below 0 and the PSNR is lower.",
    ),
)
