"""Exact inversion of convolutional networks."""

from altered_updates import ALTERED, BESIDE_STEPS, PROTOCOLS, batch_size
from convolutions import BESIDE, EXACT, OURS, STEPS

from tables import figures
from tables.columns import SECONDS, control, count, exact
from tables.documents import Document, Row
from tables.page import Page
from tables.table import Column, Table, fraction, tabulate

NETWORKS = {
    "resnet18": "ResNet-18",
    "resnet18 train mode": "ResNet-18, BatchNorm in train mode",
    "resnet18 float64": "ResNet-18, float64",
    "resnet18 64": "ResNet-18, 64 px",
    "resnet18 224": "ResNet-18, 224 px",
    "resnet50 64": "ResNet-50, 64 px",
    "resnet50 224": "ResNet-50, 224 px",
    "resnet20": "ResNet-20",
    "resnet32": "ResNet-32",
    "resnet56": "ResNet-56",
    "vgg norm": "VGG-11, BatchNorm",
    "vgg": "VGG-11",
    "vgg scaled": "VGG-11, torchvision's weights",
    "densenet": "DenseNet, small",
    "densenet scaled": "DenseNet, small, torchvision's weights",
    "densenet121": "DenseNet-121",
    "u-net": "U-Net",
    "resnext": "ResNeXt",
    "convnet": "ConvNet",
    "1-D CNN": "1-D CNN",
    "3-D CNN": "3-D CNN",
}
"""Names of networks, in the order of the lines."""
STATES = ("untrained", "epoch 1", "epoch 5", "trained")
READ = Column(
    "features read", figures.total("read"), "examples whose features the attack reads", ".0f"
)
SCORES = [
    count(),
    READ,
    Column("dB", figures.median("psnr"), "median PSNR over the n images"),
    Column("least dB", figures.least("psnr"), "PSNR of the worst image"),
    control(),
    *(exact(least=least) for least in EXACT),
    Column(
        "certified",
        figures.equal("status", "certified"),
        "batches whose result the attack certifies",
        ".0f",
    ),
    SECONDS,
]
LARGE = ("64", "224")
"""Endings of the names of networks for larger images."""
SEEN = [
    count("lpips"),
    Column("LPIPS", figures.median("lpips"), "median LPIPS, 0 for equal images", ".2f"),
]
FEATURES = Column(
    "feature error",
    figures.median("error"),
    "median relative error of the inputs of the layer where the descent begins",
    fraction,
)
ERRORS = [
    count("error", "images scored"),
    Column("error", figures.median("error"), "median relative part outside the span", fraction),
    Column("largest error", figures.most("error"), "largest relative part", fraction),
    Column(
        "change",
        figures.median("alteration"),
        "median relative change of the layer's gradient",
        fraction,
    ),
    SECONDS,
]


def tables(document: Document) -> list[Table]:
    """Return the attack by network, beside Inverting Gradients, the layers reached, and the spans."""
    images = [row for row in document.rows if row["part"] == "images"]
    ours = [row for row in images if row["method"] == OURS]
    peers = {(row["network"], row["labels"], row["size"]) for row in images if row not in ours}
    beside = [row for row in images if (row["network"], row["labels"], row["size"]) in peers]
    beside = [row for row in beside if row["state"] == "untrained" and row["draw"] < 3]
    by = {"network": name, "state": "state", "batch": "size", "labels": "labels"}
    large = [row for row in ours if "lpips" in row and row["network"].endswith(LARGE)]
    spans = [row for row in document.rows if row["part"] == "span"]
    altered = [row for row in document.rows if row["part"] == "altered"]
    return [
        tabulate("The attack on whole updates", ours, by, SCORES, order),
        tabulate(
            "Beside Inverting Gradients",
            beside,
            {"batch": "size", "labels": "labels", "attack": attack},
            SCORES,
            lambda row: (row["size"], row["method"]),
        ),
        *([tabulate("LPIPS of larger images", large, by, SEEN, order)] if large else []),
        tabulate(
            "Earliest layer whose input was read",
            ours,
            by | {"layer": lambda row: row.get("reached") or "none"},
            [Column("n batches", figures.length, "number of batches", ".0f")],
            lambda row: (order(row), row.get("reached") or ""),
        ),
        tabulate(
            "Inputs of layer4.1.conv1 of ResNet-18 outside the span of its gradient",
            spans,
            {"batch": "size", "alteration": "altered"},
            ERRORS,
            lambda row: (row["size"], ALTERED.index(row["altered"])),
        ),
        *([whole_altered(altered)] if altered else []),
    ]


def whole_altered(rows: list[Row]) -> Table:
    """Return the attack on altered updates of ResNet-18, beside Inverting Gradients."""
    return tabulate(
        "The attack on altered updates of ResNet-18",
        rows,
        {
            "alteration": "altered",
            "images": lambda row: batch_size(row["altered"], row["size"]),
            "attack": altered_attack,
        },
        [count(), FEATURES, SCORES[2], control(), SECONDS],
        lambda row: ((*ALTERED, *PROTOCOLS).index(row["altered"]), row["size"], row["method"]),
    )


def altered_attack(row: Row) -> str:
    """Return the name of an attack on an altered update."""
    if row["method"] != BESIDE:
        return str(row["method"])
    steps = BESIDE_STEPS[batch_size(row["altered"], row["size"])]
    return f"Inverting Gradients, {steps} steps"


def name(row: Row) -> str:
    """Return the name of a row's network."""
    return NETWORKS[row["network"]]


def attack(row: Row) -> str:
    """Return the name of a row's attack."""
    if row["method"] == BESIDE:
        return f"Inverting Gradients, {STEPS[row['size']]} steps"
    return str(row["method"])


def order(row: Row) -> tuple[int, int, int, str]:
    """Return where a row stands."""
    at = list(NETWORKS).index(row["network"]), STATES.index(row["state"])
    return (*at, row["size"], row["labels"])


PAGE = Page(
    title="Exact inversion of convolutional networks",
    asks="What does one update of a convolutional network give away by linear algebra?",
    short="What does one update of a convolutional network give away by algebra?",
    theme="Exact attacks",
    done=(
        "Shift consistency on gradients in float32, labels withheld. "
        "Each draw of an untrained network has weights and images of its own. "
        "Trained networks are attacked on test images with a loss above 0.1. "
        "The control is the same reconstruction scored against other images of the same labels."
    ),
    tables=tables,
    notes=(
        "An alteration is of the whole update. "
        "Noise is Gaussian, in units of the root mean square of the whole update. "
        "Top-k says which fraction of each tensor's entries becomes zero.",
        "Inverting Gradients has labels granted, and the steps that its line says. "
        "The paper takes 24,000.",
        "Images of 64 px have made-up labels. "
        "Signals and volumes are cut from images, and their PSNR is over all their values.",
        "ResNet-18 after 1 and 5 epochs was trained by the script on 4000 images. "
        "The trained ResNets are published.",
    ),
)
