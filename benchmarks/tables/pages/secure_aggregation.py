"""Secure aggregation."""

from tables import figures
from tables.columns import SECONDS, control, count, exact, score
from tables.documents import Document, Row
from tables.page import Page, Plot
from tables.pages.homomorphic import ABOVE
from tables.table import Column, Table, compact, split, tabulate

BLIND = "the same attack on the aggregate of other images that bear the same labels"
NETWORKS = {"mlp 64": "MLP of width 64", "mlp 256": "MLP of width 256", "lenet": "LeNet"}
ATTACKS = {"linear_layer": "linear layer", "spear": "SPEAR", "l-bfgs": "L-BFGS"}
LEAK = [
    count(),
    *score(center="mean"),
    control(center="mean", what=BLIND),
    Column(
        "leak dB",
        lambda rows: (
            (figures.mean("psnr")(rows) or 0.0) - (figures.mean("control_psnr")(rows) or 0.0)
        ),
        "mean PSNR above the control",
    ),
    exact(),
    SECONDS,
]
ALONE = [count(), *score(center="mean"), control(center="mean", what=BLIND), *ABOVE]
PROTOCOL = [
    Column("runs", figures.length, "number of runs", ".0f"),
    Column("sums equal", figures.total("equal"), "runs whose masked sum is the plain sum", ".0f"),
    Column(
        "error",
        figures.most("error"),
        "largest error of the mean, in steps of the fixed point",
        compact,
    ),
]


def title(row: Row) -> str:
    """Return the heading of a row's table."""
    return f"{NETWORKS[row['network']]}, {ATTACKS[row['attack']]}"


def runs(document: Document) -> list[Row]:
    """Return one row for each run of the protocol, with all clients or one lost."""
    found = []
    for row in document.rows:
        for case in ("all", "one lost") if row["part"] == "protocol" else ():
            told = row[case]
            if case == "all" or (told["clients"] < row["clients"] and row["clients"] > 2):
                equal, error = told["integers_equal"], told["largest_error_in_steps"]
                keys = {"clients": row["clients"], "present": told["clients"]}
                found.append({**keys, "equal": equal, "error": error})
    return found


def tables(document: Document) -> list[Table]:
    """Return aggregates by network and attack, masked updates alone, and runs of the protocol."""
    aggregates = [row for row in document.rows if row["part"] == "aggregate"]
    full = [row for row in aggregates if row["bits"] == 32]
    masked = [row for row in document.rows if row["part"] == "masked"]
    closed = [
        row for row in aggregates if row["network"] == "mlp 256" and row["attack"] == "linear_layer"
    ]
    fewer = [row for row in closed if row["clients"] == 4]
    present = {"clients": "clients", "present": "present"}
    return [
        *split(full, title, "The aggregate: {}".format, {"clients": "clients"}, LEAK),
        tabulate(
            "Fewer bits: MLP of width 256, linear layer, 4 clients", fewer, {"bits": "bits"}, LEAK
        ),
        tabulate(
            "One client's masked update alone, of 4 clients", masked, {"attacked": title}, ALONE
        ),
        tabulate("The protocol", runs(document), present, PROTOCOL),
    ]


PAGE = Page(
    title="Secure aggregation",
    asks="How does leakage fall with the number of clients, and does the protocol reveal only the sum?",
    short="Does secure aggregation stop leakage?",
    theme="Federated protocols",
    done=(
        "Each client holds one CIFAR-10 image. The aggregate is attacked as one batch of all clients. "
        f"The control is {BLIND}."
    ),
    tables=tables,
    plot=Plot(
        across="clients",
        tables=(0, 1, 2, 3),
        log=True,
        alt="Mean PSNR against the number of clients by network and attack, with the control dotted",
    ),
    notes=(
        "`leak dB` is the mean PSNR less the control's.",
        "L-BFGS has 600 steps and granted labels. With more steps, or with second order, LeNet leaks more: "
        "see [batches](batches.md).",
        "With fewer bits, the range stays [-16, 16], which is far wider than these gradients.",
        "Values are clamped to [0, 1] before they are scored.",
        "A masked update alone should score like its control: compare the difference with its "
        "standard error.",
    ),
)
