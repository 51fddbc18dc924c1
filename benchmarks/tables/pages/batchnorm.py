"""BatchNorm statistics of the private batch."""

from tables.columns import RESIDUAL, SECONDS, control, count, score
from tables.documents import Document
from tables.page import Page, Plot
from tables.table import Table, split

NETWORKS = {"lenet": "LeNet with BatchNorm", "resnet20": "ResNet-20, untrained"}
HOW = {
    "eval": "eval mode",
    "withheld": "train mode, withheld",
    "shared": "train mode, shared",
    "as eval, theirs": "simulated in eval mode, shared statistics",
    "as eval, old": "simulated in eval mode, old statistics",
    "5 steps, withheld": "five local steps, withheld",
    "5 steps, shared": "five local steps, shared",
    "outsider, withheld": "outsider, withheld",
    "outsider, shared": "outsider, shared",
}


def tables(document: Document) -> list[Table]:
    """Return one table for each network and batch size."""
    return split(
        document.rows,
        lambda row: f"{NETWORKS[row['network']]}, batches of {row['size']}",
        str,
        {"statistics": lambda row: HOW[row["how"]]},
        [count(), *score(), control(), RESIDUAL, SECONDS],
        lambda row: (row["network"], row["size"], list(HOW).index(row["how"])),
    )


PAGE = Page(
    title="BatchNorm in train mode",
    asks="Do BatchNorm statistics of the private batch protect it, and what do they give away if shared?",
    short="Do BatchNorm statistics of the private batch protect it?",
    theme="What leaks",
    done=(
        "LeNet with BatchNorm before each sigmoid, and an untrained ResNet-20, on CIFAR-10 with labels granted. "
        "The control is the same reconstruction scored against other images."
    ),
    tables=tables,
    plot=Plot(
        tables=(0, 1, 2), alt="PSNR of LeNet by what is known of the statistics, with the control"
    ),
    notes=(
        "In train mode a network normalizes by the batch itself. The update then reveals little "
        "about brightness and contrast.",
        "`withheld`: the attack simulates train mode with the statistics of its own candidate "
        "(BN infer in Huang et al. 2021).",
        "`shared`: the batch's statistics are granted and enter the search as a term. "
        "Withheld and shared differ only in this grant.",
        "Simulated in eval mode: with the shared statistics (BN exact), or with the model's old "
        "running statistics (BN proxy).",
        "`outsider`: sees successive global models of four clients with one example each.",
        "Five local steps: FedAvg with a rate of 0.1.",
        "Each line has two draws of LeNet, or one of ResNet-20. The search is too short for ResNet-20.",
        "The running statistics that a model starts with are those of 32 other images.",
        "Seconds are by the clock, beside several other processes.",
    ),
    takes="30 min, on a machine with several other processes",
)
