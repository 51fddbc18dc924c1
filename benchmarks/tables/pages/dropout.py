"""Active dropout."""

from tables.columns import RESIDUAL, SECONDS, control, count, score
from tables.documents import Document
from tables.page import Page, Plot
from tables.table import Table, split

NETWORKS = {"mlp": "MLP", "lenet": "LeNet", "vit": "Small transformer"}
WAYS = ("ignored", "drawn anew", "joint", "joint, second order", "known masks")


def tables(document: Document) -> list[Table]:
    """Return one table for each network and batch size."""
    return split(
        document.rows,
        lambda row: f"{NETWORKS[row['network']]}, batch of {row['batch']}",
        str,
        {"p": "p", "masks": "how"},
        [count(), *score(), control(), RESIDUAL, SECONDS],
        lambda row: (row["network"], row["batch"], row["p"], WAYS.index(row["how"])),
    )


PAGE = Page(
    title="Active dropout",
    asks="Does dropout in the client's training protect its data?",
    short="Does active dropout protect the client's data?",
    theme="What leaks",
    done=(
        "MLP with dropout after both hidden layers, LeNet and a small transformer on CIFAR-10, labels granted. "
        "One batch for each line. The control is the same reconstruction scored against other images."
    ),
    tables=tables,
    plot=Plot(low="", high="", alt="PSNR by dropout rate and by what the attack does with masks"),
    notes=(
        "`ignored` simulates the network without dropout. `drawn anew` draws masks in each evaluation.",
        "`joint` is the Dropout Inversion Attack: masks are variables beside the inputs. "
        "`joint, second order` does this within the attack of second order.",
        "`known masks` grants the client's masks. It is an upper bound that no adversary has.",
        "All ways except `joint, second order` run 600 steps of signed Adam. These are few: even "
        "with known masks, the attack does not converge.",
        "The residual belongs to the simulation that the attack itself uses. For `drawn anew` it "
        "belongs to one draw.",
        "One draw of each batch.",
    ),
    takes="half an hour, on a machine with other processes",
)
