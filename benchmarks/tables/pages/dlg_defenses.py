"""DLG against the defenses of its own paper."""

from collections.abc import Sequence

from dlg_defenses import SETTINGS
from dlg_defenses import SUCCESS as LEAK

from tables import figures
from tables.columns import adversaries
from tables.documents import Document, Row
from tables.page import Page, Plot
from tables.table import Column, Table, compact, split, tabulate

FAMILIES = {
    "none": "No defense",
    "GaussianNoise": "Gaussian noise",
    "LaplacianNoise": "Laplacian noise",
    "Quantization": "Low precision",
    "TopK": "Sparsity: the largest entries are kept",
    "RandomSparsification": "Sparsity: random entries are kept",
}
SAYS = {True: "stopped", False: "leaks", None: "–"}


def family(row: Row) -> str:
    """Return the heading of a row's table."""
    return FAMILIES[row["defense"].split("(")[0].split(",")[0]]


def strength(row: Row) -> str:
    """Return the option of a defense."""
    name = str(row["defense"]).split(")")[0].partition("(")[2]
    return f"`{name}`" if name else "none"


def published(row: Row) -> str:
    """Return what the paper says of a defense at this strength."""
    name = str(row["defense"]).split(")")[0]
    found = [setting.stops for title, setting in SETTINGS.items() if title.split(")")[0] == name]
    return next((SAYS[stops] for stops in found if stops is not None), SAYS[None])


def adversary(row: Row) -> str:
    """Return the column that a row belongs to."""
    name = str(row["defense"])
    if name == "none" or name.endswith("unknown") or ("Noise" in name and "early" not in name):
        return "naive"
    return "adaptive"


def columns(rows: Sequence[Row]) -> list[Column]:
    """Return the columns of both adversaries, and the relative strength of noise."""
    found = adversaries(rows, "adversary", center="median", leaks=figures.below("mse", LEAK))
    ratio = figures.median("relative")
    return [
        *found,
        Column(
            "std / rms",
            ratio,
            "standard deviation of the noise, divided by the root mean square of the gradient",
            compact,
        ),
    ]


def tables(document: Document) -> list[Table]:
    """Return one table for each kind of defense."""
    rows = [
        row
        | {"adversary": adversary(row)}
        | {"relative": row["std"] / row["rms_gradient"] if row["std"] else None}
        for row in document.rows
    ]
    by = {"setting": strength}

    def order(row: Row) -> int:
        return list(FAMILIES.values()).index(family(row))

    claims = {
        "defense": family,
        "setting": strength,
        "the paper says": published,
        "naive": lambda row: found(rows, row, "naive"),
        "adaptive": lambda row: found(rows, row, "adaptive"),
    }
    return [
        *split(rows, family, str, by, columns(rows), order),
        tabulate("What the paper says, and what was found", rows, claims, [], order),
    ]


def found(rows: Sequence[Row], row: Row, who: str) -> str:
    """Return whether a setting stops an adversary: fewer than half of the images leak."""
    same = (family(row), strength(row), who)
    leaked = [
        each["mse"][0] <= LEAK
        for each in rows
        if (family(each), strength(each), each["adversary"]) == same
    ]
    return SAYS[sum(leaked) < len(leaked) / 2 if leaked else None]


PAGE = Page(
    title="DLG against the defenses of its own paper",
    asks="Do noise, low precision and sparsity stop DLG, as its paper says?",
    short="Do noise, low precision and sparsity stop DLG?",
    theme="Defenses",
    done=(
        "LeNet with sigmoid at batch 1, the label recovered as in iDLG, strengths as in Zhu et al. 2019, section 5. "
        "The control of an image is the same reconstruction scored against another image."
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
        alt="PSNR of the naive and of the adaptive adversary under each defense, with the control",
    ),
    notes=(
        "An image leaks at an MSE of at most 1e-2, which is 20 dB. "
        "A defense stops DLG if fewer than half of the images leak.",
        "Noise: the naive adversary does not use what is known of the noise. "
        "The adaptive one stops when the known noise explains the rest of the update.",
        "Sparsity: the naive adversary matches a sparse update as if it were whole, like the paper's. "
        "The adaptive one compares the entries that were sent.",
        "Low precision: the adversary knows the format.",
        "The paper calls its noise levels variances. Read in this way, its 1e-2 is a std of "
        "0.1, and its 1e-4 a std of 0.01.",
        "The run was cut: the tables hold images 0 to 4 of ten. `--resume` continues it.",
    ),
)
