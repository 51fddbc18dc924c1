"""What a prior adds: the specifications under examples/."""

from tables import figures
from tables.columns import RESIDUAL, SECONDS, control, count, score
from tables.documents import Document, Row
from tables.page import Page, Plot
from tables.table import Column, Table, split

SHOWN = ("steps", "labels", "tv", "variation", "objective")
BLIND = "the same attack on the update of other images"
CONVERGED = Column(
    "converged", figures.equal("status", "converged"), "batches that converge", ".0f"
)


def short(row: Row) -> str:
    """Return an attack's name and those of its options that fit into a cell."""
    name, _, options = str(row["attack"]).rstrip(")").partition("(")
    kept = [one for one in options.split(", ") if one.split("=")[0] in SHOWN]
    return f"`{name}({', '.join(kept)})`"


def tables(document: Document) -> list[Table]:
    """Return one table for each specification."""
    rows = [
        cell | {"specification": row["specification"], "commit": row.get("commit", "")}
        for row in document.rows
        for cell in row["cells"]
    ]
    columns = [count(), *score(), control(what=BLIND), CONVERGED, RESIDUAL, SECONDS]
    by = {"attack": short, "batch": "batch"}
    return split(rows, "specification", "`{}`".format, by, columns)


PAGE = Page(
    title="What a prior adds: the example specifications",
    asks="What does a prior add to gradient matching on photographs?",
    short="What does a prior add, in the specifications under examples?",
    theme="What leaks",
    done=(f"The four specifications under `examples/` run completely. The control is {BLIND}."),
    tables=tables,
    plot=Plot(alt="PSNR of each attack of the four specifications, with quartiles and the control"),
    notes=(
        "The specifications are under `examples/`, and their figures under `examples/figures/`.",
        "The images are photographs that ship with scikit-image and scikit-learn, unless `--data` is given.",
    ),
    takes="11 min",
)
