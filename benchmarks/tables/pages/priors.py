"""Priors for gradient matching."""

from priors import DEEP, NONE, PRIORS

from tables.columns import LPIPS, RESIDUAL, SECONDS, SSIM, control, count, score
from tables.documents import Document, Row
from tables.page import Page, Plot
from tables.table import Table, split, tabulate

NETWORKS = {"lenet": "LeNet", "resnet20": "ResNet-20, untrained"}


def title(row: Row) -> str:
    """Return the heading of a row's table."""
    noise = f"noise of std {row['std']:g}" if row["std"] else "no noise"
    return f"{NETWORKS[row['network']]}, batch of {row['size']}, {noise}"


def order(row: Row) -> tuple[object, ...]:
    """Return where a row stands."""
    place = [NONE, *PRIORS, DEEP].index(row["prior"])
    return row["network"], row["size"], row["std"], place


def tables(document: Document) -> list[Table]:
    """Return one table for each network, batch size and noise."""
    columns = [
        count(),
        *score(center="mean"),
        control(center="mean"),
        RESIDUAL,
        SECONDS,
    ]
    found = split(document.rows, title, str, {"prior": "prior"}, columns, order)
    by = {"network, batch and noise": title, "prior": "prior"}
    metrics = [count(), *SSIM, *LPIPS]
    return [*found, tabulate("Further metrics", document.rows, by, metrics, order)]


PAGE = Page(
    title="Priors for gradient matching",
    asks="Which prior adds most to first-order matching by cosine distance?",
    short="Which prior adds most to gradient matching?",
    theme="What leaks",
    done=(
        "LeNet and an untrained ResNet-20 in eval mode on CIFAR-10, labels granted, without and with Gaussian noise. "
        "The control is the same reconstruction scored against other images of the same labels."
    ),
    tables=tables,
    plot=Plot(tables=(0, 1, 2, 3), alt="PSNR of LeNet by prior, with the control"),
    notes=(
        "Each line takes the same number of steps: 300 on LeNet, 80 on ResNet-20. "
        "These are signed Adam on pixels, and Adam on the weights of the deep image prior.",
        "Noise of std 0.03 is about a tenth of the norm of either gradient.",
        "LPIPS uses the same SqueezeNet whose feature statistics are one of the priors. So the low "
        "LPIPS of this prior, and of its control, says little.",
        "One to three values of each weight were tried, on two or three images of the training split. "
        "The rate of the deep image prior was tried on bundled photographs, with LeNet alone. "
        "The weight of orthogonality was not tuned.",
        "No weight or rate was chosen on an image that is attacked here.",
        "Feature statistics are of SqueezeNet 1.1 on public images, and of the trained ResNet-20's BatchNorm.",
        "Each line has one draw of ResNet-20, or two or three of LeNet.",
    ),
    takes="25 min, on a machine with several other processes (10 min of one core)",
)
