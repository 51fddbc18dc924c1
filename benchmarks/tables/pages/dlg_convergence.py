"""How often DLG and iDLG finish."""

from tables import figures
from tables.columns import SECONDS, labels_right, score
from tables.documents import Document
from tables.page import Page, Plot
from tables.table import Column, Table, tabulate

COLUMNS = [
    Column("n", figures.length, "runs: ten images with three seeds", ".0f"),
    Column("finished", figures.below("mse", 1e-4), "runs with an MSE of at most 1e-4", ".0f"),
    labels_right(),
    Column("MSE", figures.median("mse"), "median mean squared error over runs", ".1e"),
    *score(),
    Column(
        "evaluations",
        figures.median("evaluations"),
        "median number of evaluations over runs",
        ".0f",
    ),
    SECONDS,
]


def tables(document: Document) -> list[Table]:
    """Return one table."""
    return [tabulate("Runs that finish", document.rows, {"attack": "attack"}, COLUMNS)]


PAGE = Page(
    title="How often DLG and iDLG finish",
    asks="How often do DLG and iDLG reach an MSE of at most 1e-4 on LeNet at batch 1?",
    short="How often do DLG and iDLG finish on LeNet at batch 1?",
    theme="What leaks",
    done=(
        "LeNet with sigmoid, one CIFAR-10 image, with the papers' settings and with ours. "
        "The result is the iterate and the restart with the lowest objective of the attacker. No "
        "control was measured."
    ),
    tables=tables,
    plot=Plot(
        value="finished",
        control="",
        low="",
        high="",
        axis="runs of 30 that finish",
        alt="Number of runs of each attack that finish",
    ),
    notes=(
        "A run finishes at an MSE of at most 1e-4, which is 40 dB.",
        "The seed draws the model and the start of a run.",
    ),
)
