"""The cocktail party attack on linear layers."""

from tables.columns import CERTIFIED, SECONDS, count, exact, labels_right, score
from tables.documents import Document
from tables.page import Page, Plot
from tables.table import Table, split

DATA = {"cifar10": "CIFAR-10", "mnist": "MNIST"}
COLUMNS = [count(), *score(), exact(), exact(least=20.0), labels_right(), CERTIFIED, SECONDS]


def tables(document: Document) -> list[Table]:
    """Return tables of MLPs, of defenses, and of images from features."""
    parts = {
        p: [row for row in document.rows if row["part"] == p]
        for p in ("mlp", "defense", "features")
    }
    mlps = split(
        parts["mlp"],
        lambda row: f"MLP of width {row['width']}, {DATA[row['data']]}",
        str,
        {
            "batch": "size",
            "labels": lambda row: "all equal" if row["labels"] == "equal" else "own",
            "attack": "method",
        },
        COLUMNS,
    )
    defended = split(
        parts["defense"],
        "size",
        "MLP of width 512 under defenses, batches of {}".format,
        {"defense": "defense", "attack": "method"},
        COLUMNS,
    )
    features = split(
        parts["features"],
        "model",
        "Images from features: {}".format,
        {"batch": "size", "attack": "method"},
        COLUMNS,
    )
    return mlps + defended + features


PAGE = Page(
    title="Cocktail party: whole batches from a linear layer",
    asks="How large a batch can the cocktail party attack recover exactly from one linear layer?",
    short="How large a batch does one linear layer give away exactly?",
    theme="Exact attacks",
    done=(
        "MLPs of two hidden layers, a CNN with a hidden linear layer, and three more networks at batch 1. "
        "The attack combines independent components with silent outputs: outputs whose ReLU is off "
        "for an example. It is compared with the closed form, independent components alone, the "
        "paper's descent, and signed Adam. No control was measured."
    ),
    tables=tables,
    plot=Plot(
        control="",
        across="batch",
        log=True,
        tables=(0, 1, 2),
        alt="PSNR of each attack by batch size for three MLPs",
    ),
    notes=(
        "No image that helped to choose our settings is attacked: attacks start at image 1000 of "
        "the training split.",
        "Exact means at least 60 dB. An image is recognizable at 20 dB or more.",
        "Labels are granted only where features are inverted to images.",
        "Noise is Gaussian, with its standard deviation in the name. bf16 rounds the update to bfloat16.",
    ),
)
