"""Exact attacks beside gradient matching."""

from exact_cells import CELLS, DEFENSES, STEPS
from unmixing import READ

from tables import figures
from tables.columns import CERTIFIED, RESIDUAL, SECONDS, control, count, exact, score
from tables.documents import Document, Row
from tables.page import Page, Plot
from tables.table import Column, Table, compact, split

LEAST = Column("least dB", figures.least("psnr"), "PSNR of the worst image")
ANSWER = Column("n", figures.length, "batches", ".0f")
INAPPLICABLE = Column(
    "inapplicable",
    lambda rows: sum(row["psnr"] is None and "error" not in row for row in rows),
    "batches on which the attack cannot run",
    ".0f",
)
BESIDE = [count(), *score(), LEAST, control(), exact(), CERTIFIED, RESIDUAL, SECONDS]
DEFENDED = [count(), *score(), LEAST, control(), exact(), INAPPLICABLE]
FEATURES = [
    Column("examples", figures.count("error"), "number of examples", ".0f"),
    Column("error", figures.median("error"), "median relative error of the features", compact),
    Column(
        f"≤ {READ:g}", figures.below("error", READ), "examples whose features are recovered", ".0f"
    ),
    INAPPLICABLE,
]


def place(row: Row) -> tuple[int, int]:
    """Return where a row stands among the cells."""
    at = list(CELLS).index(row["cell"])
    tried = CELLS[row["cell"]].tried
    return at, tried.index(row["attack"]) if row["attack"] in tried else len(tried)


def tables(document: Document) -> list[Table]:
    """Return one table for each network and batch, then one for each attack under defenses."""
    beside = [row for row in document.rows if row["part"] == "beside"]
    rest = [row for row in document.rows if row["part"] == "defended"]
    features = [row for row in rest if "features" in row["attack"]]
    images = [row for row in rest if "features" not in row["attack"]]
    names = [*DEFENSES, *STEPS]
    by = {"defense": "defense"}

    def title(row: Row) -> str:
        return f"Under defenses: {row['attack']}, {row['cell']}"

    def order(row: Row) -> tuple[str, int]:
        return title(row), names.index(row["defense"])

    return [
        *split(beside, "cell", str, {"attack": "attack"}, BESIDE, place),
        *split(images, title, str, by, DEFENDED, order),
        *split(features, title, str, by, FEATURES, order),
    ]


PAGE = Page(
    title="Exact attacks beside gradient matching",
    asks="What do exact attacks recover, at which cost, and which defenses end exactness?",
    short="What do exact attacks recover, and which defenses end exactness?",
    theme="Exact attacks",
    done=(
        "Each exact attack runs beside gradient matching on the same updates of CIFAR-10 images. "
        "Then it runs under defenses that it knows. "
        "The control is the same reconstruction scored against other images."
    ),
    tables=tables,
    plot=Plot(
        tables=(0, 1, 4, 8, 9, 10, 11),
        alt="PSNR of exact attacks and of gradient matching on seven networks, with the control",
    ),
    notes=(
        "Labels are granted to all attacks, without their order. In lines with equal labels, every "
        "image gets the label of the first one.",
        "Matching runs as many steps as its name says. These are fewer than in the papers. "
        "`cut` is second order with three stages of L-BFGS and one of Gauss-Newton, where the defaults take minutes.",
        "Seconds are CPU seconds of the process, on one thread.",
        "`least dB` is the PSNR of the worst image of a line.",
        "Five local steps use the full batch. The difference of the weights, divided by the rate "
        "and the number of steps, stands for one gradient. "
        "By themselves, most attacks are inapplicable to this update: it is a delta, and they need one gradient.",
        "Under defenses, draws were run in order, and the run was cut. So some lines have fewer "
        "than three draws.",
        "Values are scored unclamped, so an attack that diverges has a negative PSNR.",
        "Peeling on the CNN of FedAvg depends on the machine. "
        "Its figures here are those of the machine that measured them.",
        "Peeling cannot solve the ConvNet of width 16: its rows note a rank of 386, below 1024.",
    ),
    takes="46 min, for the first two draws of most lines",
)
