"""How photographs vary in color."""

from tables import figures
from tables.documents import Document
from tables.page import Page
from tables.table import Column, Table, tabulate


def ratio(at: int) -> figures.Figure:
    """Return the figure of one of the two ratios."""
    return lambda rows: float(rows[0]["ratios"][at])


def tables(document: Document) -> list[Table]:
    """Return one table."""
    columns = [
        Column("n", figures.total("images"), "images", ".0f"),
        Column(
            "red - blue", ratio(0), "energy of brightness divided by that of the axis red - blue"
        ),
        Column(
            "red - 2 green + blue",
            ratio(1),
            "energy of brightness divided by that of the axis red - 2 green + blue",
        ),
    ]
    return [tabulate("Energy ratios", document.rows, {"photographs": "set"}, columns)]


PAGE = Page(
    title="How photographs vary in color",
    asks="How much less do photographs vary in color than in brightness?",
    short="How much less do photographs vary in color than in brightness?",
    theme="Cost and quality of the tool",
    done=(
        "A ratio is the energy of the Laplacian of brightness, divided by that of one of two color "
        "axes. Images are halved down to 32 x 32 pixels. "
        "The default weights of the smoothness prior come from these ratios. No attack runs, so there is no control."
    ),
    tables=tables,
    takes="seconds",
)
