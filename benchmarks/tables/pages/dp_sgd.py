"""DP-SGD: leakage and accuracy against epsilon."""

import math
from collections.abc import Sequence

from tables import figures
from tables.columns import adversaries
from tables.documents import Document, Row
from tables.page import Page, Plot
from tables.table import Column, Table, compact, split, tabulate


def bound(field: str) -> figures.Figure:
    """Return an epsilon. Without noise it is infinite."""

    def figure(rows: Sequence[Row]) -> float | None:
        return math.inf if rows[0][field] is None else float(rows[0][field])

    return figure


TRAINED = [
    Column(
        "epsilon, one round", bound("epsilon_round"), "epsilon of one round, at delta 1e-5", compact
    ),
    Column(
        "epsilon, 200 rounds", bound("epsilon"), "epsilon of all rounds, at delta 1e-5", compact
    ),
    Column("accuracy, %", lambda rows: 100 * rows[0]["accuracy"], "test accuracy after 200 rounds"),
    Column("training s", figures.median("seconds"), "seconds of the training", ".0f"),
]


def tables(document: Document) -> list[Table]:
    """Return what is learned, then what leaks at each batch size."""
    trained = [row for row in document.rows if row["kind"] == "accuracy"]
    rest = [row for row in document.rows if row["kind"] != "accuracy"]
    by = {"noise multiplier": "multiplier"}
    columns = adversaries(document.rows, "kind", leaks=figures.total("leaked"))
    found = split(rest, "size", "What leaks from batches of {}".format, by, columns)
    return [*found, tabulate("Epsilon and accuracy", trained, by, TRAINED)]


PAGE = Page(
    title="DP-SGD: leakage against epsilon",
    asks="At which epsilon does DP-SGD stop these attacks, and what accuracy is left?",
    short="At which epsilon does DP-SGD stop the attacks?",
    theme="Defenses",
    done=(
        "LeNet with tanh on CIFAR-10, each example's gradient clipped at norm 1, labels granted. "
        "Attacks see the model that training starts from. "
        "The control is the same reconstruction scored against other images of the same labels, the mean of 5 draws."
    ),
    tables=tables,
    plot=Plot(
        value="adaptive dB",
        other="naive dB",
        control="adaptive control dB",
        other_control="naive control dB",
        deviation="adaptive SD",
        low="adaptive Q1",
        high="adaptive Q3",
        keys=1,
        tables=(0, 1),
        alt="PSNR of the naive and of the adaptive adversary by noise multiplier, with the control",
    ),
    notes=(
        "`naive` takes the update as one plain gradient. `adaptive` simulates the clipping, and "
        "its distance is the likelihood of the noise. Without noise, it is the naive attack plus "
        "the clipping.",
        "An image leaks if it has at least 20 dB or an SSIM of at least 0.5, and is also 3 dB "
        "above its control.",
        "Epsilon holds for a client whose number of images is equal to the others', at delta 1e-5. "
        "The RDP accountant of Opacus computes it, as if examples were drawn by Poisson sampling.",
        "The epsilon of one round assumes that every example of the batch takes part. The epsilon "
        "of 200 rounds assumes that examples are sampled. So one round can have the larger epsilon.",
        "Compare an attack on one round with the epsilon of one round.",
        "Accuracy is measured with the training of [the frontier](frontier.md).",
        "One draw of each batch. The deviation is over images.",
        "The benchmark needs the extra `dp`.",
    ),
    takes="10 to 60 s of CPU for each attack, up to 720 s for each training",
)
