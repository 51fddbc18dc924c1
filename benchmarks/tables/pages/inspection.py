"""What an inspection foretells, beside what gradients of real images give."""

from collections.abc import Sequence

from tables import figures
from tables.documents import Document, Row
from tables.page import Page
from tables.table import Column, Table, compact, fraction, tabulate

KINDS = {
    "span": "Spans of convolutions, from their own gradients",
    "above": "Inputs from known signals above",
    "last": "Features from the last layer",
}


def compared(sign: int) -> figures.Figure:
    """Return in how many counts the read batch is less (-1), equal (0) or more (1)."""

    def figure(rows: Sequence[Row]) -> float:
        signs = [(r["read"] > r["foretold"]) - (r["read"] < r["foretold"]) for r in rows]
        return signs.count(sign)

    return figure


def tables(document: Document) -> list[Table]:
    """Return the networks, and then each count by its kind."""
    flat = [{**row, **each} for row in document.rows for each in row["counts"]]
    agreement = [
        Column("counts", figures.length, "number of counts that were compared", ".0f"),
        Column("equal", compared(0), "counts that are the largest batch that is read", ".0f"),
        Column("more", compared(1), "counts below the batch that is read", ".0f"),
        Column("less", compared(-1), "counts above the batch that is read", ".0f"),
    ]
    networks = [
        Column(
            "exact", figures.median("exact"), "largest batch that is exact at some layer", ".0f"
        ),
        Column(
            "by attack",
            figures.median("by_attack"),
            "largest batch that an attack of LeakGauge reads at some layer, by counting",
            ".0f",
        ),
        Column(
            "features",
            figures.median("features"),
            "largest batch at which an exact layer outnumbers the example",
            ".0f",
        ),
        *agreement,
        Column("s", figures.median("seconds"), "seconds of the inspection", compact),
    ]
    counts = [
        Column("foretold", figures.median("foretold"), "largest batch by the inspection", ".0f"),
        Column("read", figures.median("read"), "largest batch that is read in float64", ".0f"),
        Column(
            "error, float32",
            figures.median("error32"),
            "relative error of the worst example's input at the foretold batch, from a float32 gradient",
            fraction,
        ),
    ]
    found = [tabulate("Networks", flat, {"network": "network"}, networks)]
    for kind, title in KINDS.items():
        rows = [row for row in flat if row["count"] == kind]
        if rows:
            by = {"network": "network", "layer": "layer"}
            found.append(tabulate(title, rows, by, counts))
    return found


PAGE = Page(
    title="Inspection: foretold and read",
    asks="Is the batch that an inspection foretells the batch that algebra reads from gradients of real images?",
    short="Does `leakgauge inspect` foretell what algebra reads?",
    theme="Exact attacks",
    done=(
        "Untrained networks, one gradient of real images, all labels equal, float64. "
        "The inspection sees the network alone. Its counts are not scores, so there is no control."
    ),
    tables=tables,
    notes=(
        "Span: the null vectors of the layer's row space contain the true inputs, up to a relative error of 1e-5.",
        "From above: the true signals of the layers that share an input make equations of full rank.",
        "Last layer: its gradient has the rank of the batch, with singular values down to 1e-13 of the largest.",
        "Of each network, up to three spans and three inputs from above are compared.",
        "The inspection measures ranks on random images. Other channels are dead on real ones, so counts move by one.",
        "Beside a narrow gap, a span is determined, but its error in float64 can be above 1e-5.",
        "An image that the network fits, or nearly equal features, leave a signal of lower rank than foretold.",
    ),
    takes="8 min on two cores",
)
