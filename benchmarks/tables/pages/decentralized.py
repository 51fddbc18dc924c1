"""Gossip training and a neighbor that listens."""

from tables import figures
from tables.columns import control, count, exact, score
from tables.documents import Document
from tables.page import Page, Plot
from tables.table import Column, Table, compact, split

BLIND = "the same attack with another image of the same label at the victim"
COLUMNS = [
    count(),
    *score(center="mean"),
    control(center="mean", what=BLIND),
    exact(least=20.0),
    Column(
        "error", figures.median("error"), "median relative error of the victim's gradient", compact
    ),
]
NETWORKS = {"mlp 32": "MLP of width 32", "lenet": "LeNet"}


def tables(document: Document) -> list[Table]:
    """Return one table for each network and rate."""
    return split(
        document.rows,
        lambda row: f"{NETWORKS[row['network']]}, rate {row['rate']:g}",
        str,
        {"start": "start", "degree": "degree", "hops": "hops"},
        COLUMNS,
    )


PAGE = Page(
    title="Decentralized training: what a neighbor learns",
    asks="What does a node of gossip training learn of another node's data?",
    short="What does a neighbor in gossip training learn?",
    theme="Federated protocols",
    done=(
        "8 nodes on a circle with 2 or 4 neighbors each, or a pair, hold one CIFAR-10 image each. "
        "Node 0 listens for 8 rounds, computes one other node's gradient from the messages, and attacks it. "
        f"The control is {BLIND}."
    ),
    tables=tables,
    plot=Plot(alt="PSNR by start, degree and hops, with the control"),
    notes=(
        "`start` is the round from which node 0 listens. `degree` is the number of neighbors, "
        "`hops` the distance to the victim.",
        "The rate is the step size of training.",
        "`error` is that of the computed gradient, relative to the true gradient at the computed model.",
        "Where the equations determine a gradient, messages rounded to float32 set its error. "
        "It is larger at small rates.",
        "The MLP is attacked in closed form. LeNet is attacked by L-BFGS with total variation and the label granted.",
        "An image counts as recovered at 20 dB or more.",
    ),
    takes="about 9 min, not recorded",
)
