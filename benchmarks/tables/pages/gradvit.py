"""GradViT, part by part, and a ViT beside a CNN."""

from gradvit import PARTS, RECIPES, RIVALS

from tables import figures
from tables.columns import LPIPS, RESIDUAL, SECONDS, SSIM, control, count, score
from tables.documents import Document, Row
from tables.page import Page, Plot
from tables.table import Column, Table, split, tabulate

BLOCKS = [
    Column("blockiness", figures.mean("blockiness"), "mean blockiness of reconstructions", ".2f"),
    Column(
        "of originals", figures.mean("blockiness_originals"), "mean blockiness of originals", ".2f"
    ),
]
COLUMNS = [count(), *score(center="mean"), control(center="mean"), RESIDUAL, SECONDS]


def tables(document: Document) -> list[Table]:
    """Return the parts of GradViT, then both networks, by batch size."""
    done = [row for row in document.rows if "inapplicable" not in row]
    parts = [row for row in done if row["part"] == PARTS]
    sides = [row for row in done if row["attack_name"] in RIVALS]
    recipes, rivals = list(RECIPES), list(RIVALS)

    def order(row: Row) -> tuple[object, ...]:
        name = row["attack_name"]
        return row["size"], rivals.index(name) if name in rivals else 0, row["network"]

    return [
        *split(
            parts,
            "size",
            "Parts of GradViT, batch of {}".format,
            {"recipe": "attack_name"},
            [*COLUMNS, *BLOCKS],
            lambda row: (row["size"], recipes.index(row["attack_name"])),
        ),
        *split(
            sides,
            "size",
            "ViT beside CNN, batch of {}".format,
            {"attack": "attack_name", "network": "network"},
            COLUMNS,
            order,
        ),
        tabulate(
            "Further metrics",
            sorted(done, key=lambda row: (row["size"], row["part"] != PARTS)),
            {"batch": "size", "network": "network", "attack": "attack_name"},
            [count(), *SSIM, *LPIPS],
        ),
    ]


PAGE = Page(
    title="GradViT, part by part, and a ViT beside a CNN",
    asks="What does each part of GradViT add, and is a vision transformer more open than a CNN of equal accuracy?",
    short="What does each part of GradViT add? Is a ViT more open than a CNN?",
    theme="What leaks",
    done=(
        "A small ViT and a ResNet-20, trained to one accuracy on CIFAR-10, in eval mode, with labels granted. "
        "The control is the same reconstruction scored against other images of the same labels."
    ),
    tables=tables,
    plot=Plot(shared=False, alt="PSNR of each recipe, and of ViT and CNN, with the control"),
    notes=(
        "Parts: the gradient alone (logarithm of the cosine distance), the patch prior, and the image prior. "
        "The image prior is total variation, l2, and the BatchNorm statistics of the published ResNet-20.",
        "`+ registered group` uses both priors, and keeps three restarts close to their registered mean.",
        "`norms, pixels` has the paper's distance and variables, with our default weights. "
        "It does not have the paper's 120,000 steps.",
        "Blockiness is the mean difference of neighboring pixels across patch borders, divided by "
        "that inside patches.",
        "All lines of a batch share seed, steps (200) and rate. "
        "Weights, rate and distance were chosen on six test images, 100 to 105. Batches are of the first 60.",
        "The closed form is APRIL's with the patch embedding. It needs a batch of one example. "
        "It does not apply to the CNN: "
        "its first convolution does not cut the image into patches.",
        "The trained weights are not stored, so another machine may get other weights. "
        "The ViT answers 56.6% of 1,000 held-out images right, the ResNet-20 58.0%.",
        "Run `benchmarks/train_vit.py` first. It takes 21 min on a machine with several other processes.",
        "Seconds were measured beside other processes.",
    ),
    takes="26 min",
)
