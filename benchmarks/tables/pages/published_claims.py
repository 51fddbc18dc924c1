"""Published claims of simple defenses."""

from collections.abc import Sequence

from published_claims import SETTINGS, holds, of, pairs, verdict

from tables import figures
from tables.columns import adversaries
from tables.documents import Document, Row
from tables.page import Page, Plot
from tables.table import Table, split, tabulate

NETWORKS = {"lenet": "LeNet", "resnet20": "ResNet-20, untrained"}
KINDS = {
    "none": "no defense",
    "Gaussian": "Gaussian noise",
    "Laplacian": "Laplacian noise",
    "precision": "low precision",
}


def tables(document: Document) -> list[Table]:
    """Return one table for each network and kind of defense."""
    rows = document.rows
    columns = adversaries(rows, "adversary", leaks=figures.total("leaked"))

    def judged(row: Row, either: bool) -> str:
        network, name = row["network"], row["setting"]
        naive, adaptive = (of(rows, network, name, who) for who in ("naive", "adaptive"))
        both: Sequence[Row] = [max(pair, key=verdict) for pair in pairs(naive, adaptive)]
        claimed, plain = SETTINGS[network, name].claimed, of(rows, network, "none", "naive")
        return holds(claimed, list(both) if either else naive, plain) or "–"

    def title(row: Row) -> str:
        what = SETTINGS[row["network"], row["setting"]].what
        return f"{NETWORKS[row['network']]}, {KINDS.get(what, what)}"

    def order(row: Row) -> int:
        return list(SETTINGS).index((row["network"], row["setting"]))

    claims: dict[str, object] = {
        "network": lambda row: NETWORKS[row["network"]],
        "setting": "setting",
        "published": lambda row: SETTINGS[row["network"], row["setting"]].claimed or "–",
        "holds for naive": lambda row: judged(row, False),
        "holds for both": lambda row: judged(row, True),
    }
    claimed = [row for row in rows if row["adversary"] == "naive"]
    return [
        *split(rows, title, str, {"setting": "setting"}, columns, order),
        tabulate("What was published, and whether it holds", claimed, claims, [], order),
    ]


PAGE = Page(
    title="Published claims of simple defenses",
    asks="Do published claims of simple defenses hold against an adversary that knows the defense?",
    short="Do published claims of simple defenses hold?",
    theme="Defenses",
    done=(
        "LeNet with sigmoid and an untrained ResNet-20 in eval mode, one CIFAR-10 image, label withheld. "
        "The control is the same reconstruction scored against other images of the label, the mean of 5 draws."
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
        tables=(1, 2, 3, 4, 5, 6, 7),
        alt="PSNR of the naive and of the adaptive adversary on LeNet, with the control",
    ),
    notes=(
        "Claims are of Zhu et al. 2019 (Deep Leakage from Gradients): noise of 1e-2 and above and sparsity above 20% "
        "stop leakage, half precision does not.",
        "Other claims are of Zhang et al. 2022 (A Survey on Gradient Inversion): "
        "dropout, more or fewer filters, and more local steps help.",
        "`naive` takes the update for one gradient of the plain network. `adaptive` knows the defense. "
        "About the number of filters there is nothing to know, so it has no adaptive attack.",
        "For `holds for both`, each image has the result of the adversary that recovers more.",
        "An image leaks if it has at least 20 dB or an SSIM of at least 0.5, and is also 3 dB "
        "above its control.",
        "A defense stops leakage if fewer than half of the images leak. "
        "It helps if it lowers the PSNR above the control by at least 1 dB. No image counts for "
        "more than 40 dB.",
        "The run was cut: image 0 has all rows, and image 1 only LeNet's first 30.",
        "Between the two commits, the adaptive adversary's steps under noise on LeNet grew tenfold. "
        "Its rows are of the second commit.",
        "In 300 steps, our first-order attack reconstructs an image of ResNet-20 only weakly, even "
        "without a defense. So the lines of ResNet-20 say little.",
        "The adaptive adversary of local steps on ResNet-20 has five stages of 60 steps, and "
        "recovers less than the naive one.",
    ),
    takes="25 s of CPU for each row",
)
