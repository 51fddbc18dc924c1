"""How soon the command answers."""

from tables import figures
from tables.documents import Document, Row
from tables.page import Page, Plot
from tables.table import Column, Table, tabulate

TORCH = "import torch"


def tables(document: Document) -> list[Table]:
    """Return one table."""
    rows: list[Row] = [
        {"program": name, "spent": spent}
        for row in document.rows
        for name, spent in row["seconds"].items()
    ]
    torch = figures.median("spent")([row for row in rows if row["program"] == TORCH]) or 1.0
    ratio = Column(
        "of import torch",
        lambda rows: (figures.median("spent")(rows) or 0.0) / torch,
        "median, divided by that of `import torch`",
        ".3f",
    )
    columns = [
        Column("n", figures.length, "rounds", ".0f"),
        Column("s", figures.median("spent"), "median seconds by the clock", ".3f"),
        Column("Q1", figures.quartile("spent", 1), "first quartile over rounds", ".3f"),
        Column("Q3", figures.quartile("spent", 3), "third quartile over rounds", ".3f"),
        ratio,
    ]
    return [
        tabulate(
            "Seconds to an answer", rows, {"program": lambda row: f"`{row['program']}`"}, columns
        )
    ]


PAGE = Page(
    title="How soon the command answers",
    asks="How long do help, the version and a mistake on the command line take, beside `import torch`?",
    short="How soon does the command answer?",
    theme="Cost and quality of the tool",
    done=(
        "Each program is a new process. "
        "A round runs each program once, so that other load on the machine affects all of them."
    ),
    tables=tables,
    plot=Plot(
        value="s",
        control="",
        axis="seconds by the clock",
        alt="Seconds of each program, with quartiles over rounds",
    ),
    notes=(
        "Times are by the clock: this is how long a user waits.",
        "A first round fills the caches of the file system, and does not count.",
    ),
    takes="2 min by the clock, on two cores shared with other work",
)
