"""The frontier of defenses: leakage against accuracy."""

from collections.abc import Sequence
from functools import partial

from frontier import dominating, leakage, summary
from frontier_settings import SETTINGS, of_data, of_gradient, of_model

from tables import figures
from tables.columns import LPIPS, SSIM, adversaries
from tables.documents import Document, Row
from tables.page import Page, Plot
from tables.table import Column, Table, tabulate

PANELS = {"data": of_data, "model": of_model, "gradient": of_gradient}


def of_kind(who: str, figure: figures.Figure) -> figures.Figure:
    """Return a figure of one adversary's rows."""
    return figures.where("kind", who, figure)


def columns(rows: Sequence[Row]) -> list[Column]:
    """Return the columns of attacks and of training."""
    accuracy = of_kind("accuracy", lambda rows: 100 * rows[0]["accuracy"])
    found = adversaries(rows, "kind", leaks=figures.total("leaked"))
    return [*found[:-1], Column("accuracy, %", accuracy, "test accuracy after 200 rounds")]


def further() -> list[Column]:
    """Return the columns of other metrics and of costs."""
    own = [LPIPS[0], SSIM[0]]
    found = [
        Column(c.head, of_kind("adaptive", c.figure), f"{c.about}, of the adaptive attack", c.form)
        for c in own
    ]
    label = of_kind("adaptive", figures.mean("label"))
    sent = of_kind("accuracy", lambda rows: rows[0]["sent"] / 1e6)
    trained = of_kind("accuracy", lambda rows: rows[0]["seconds"])
    return [
        *found,
        Column("labels", label, "fraction of labels that the adaptive attack recovers", ".2f"),
        Column("MB sent", sent, "by all clients in 200 rounds", ".0f"),
        Column(
            "attack s",
            of_kind("adaptive", figures.seconds),
            "CPU seconds of the adaptive attack",
            ".0f",
        ),
        Column("training s", trained, "seconds of the training", ".0f"),
    ]


def compared(points: dict[str, Row], name: str) -> Row:
    """Return what the frontier knows of one setting."""
    point = points[name]
    return {"setting": name, "above": leakage(point), "accuracy": 100 * point["accuracy"]}


def tables(document: Document) -> list[Table]:
    """Return the settings of data, model and gradient, then which of them no other one beats."""
    rows = [row for row in document.rows if row["draw"] == 0]
    points = {name: point for name in SETTINGS if (point := summary(name, document.rows))}
    found = []
    for title, settings in PANELS.items():
        names = ["none", *(setting.name for setting in settings())]
        own = sorted(
            (r for r in rows if r["setting"] in names), key=lambda r: names.index(r["setting"])
        )
        line = partial(tabulate, rows=own, by={"setting": "setting"})
        found.append(line(f"Defenses of the {title}", columns=columns(rows)))
        found.append(line(f"Defenses of the {title}: other metrics and costs", columns=further()))
    measured = [name for name, p in points.items() if leakage(p) is not None and "accuracy" in p]
    best = [name for name in measured if not dominating(name, points)]
    rest = [name for name in measured if name not in best]
    numbers = [
        Column(
            "dB above control",
            figures.mean("above"),
            "PSNR above the control, of the adversary that recovers more, at least 0",
        ),
        Column("accuracy, %", figures.mean("accuracy"), "test accuracy after 200 rounds"),
    ]
    beaten = {"setting": "setting", "dominated by": lambda row: dominating(row["setting"], points)}
    plain = [row for row in document.rows if row["setting"] == "none" and row["kind"] == "accuracy"]
    seeds = [
        Column(
            "accuracy, %", lambda rows: 100 * rows[0]["accuracy"], "test accuracy after 200 rounds"
        )
    ]
    return [
        *found,
        tabulate(
            "The frontier", [compared(points, n) for n in best], {"setting": "setting"}, numbers
        ),
        tabulate("Dominated settings", [compared(points, n) for n in rest], beaten, numbers),
        tabulate("Accuracy without a defense, by seed", plain, {"seed": "draw"}, seeds),
    ]


PAGE = Page(
    title="The frontier of defenses",
    asks="What does each defense hide from a naive and an adaptive adversary, and what accuracy does it cost?",
    short="What does each defense hide, and what accuracy does it cost?",
    theme="Defenses",
    done=(
        "LeNet with tanh, one batch of 4 CIFAR-10 images, labels withheld. "
        "Accuracy is measured after 200 rounds of training with 5 clients, whose labels differ. "
        "The control is the same reconstruction scored against other images of the same labels, the mean of 5 draws."
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
        tables=(0, 2, 4),
        alt="PSNR of the naive and of the adaptive adversary under every defense, with the control",
    ),
    figures=(
        "![Leakage above the blind control against test accuracy, for defenses of data, model and gradient]"
        "(../frontier.svg)",
        "`benchmarks/frontier_figure.py` draws this figure from the same rows.",
    ),
    notes=(
        "Each line has one batch, so differences of 1 or 2 dB mean nothing.",
        "`naive` does not know the defense and takes the update for one plain gradient. `adaptive` knows it.",
        "An image leaks if it has at least 20 dB or an SSIM of at least 0.5, and is also 3 dB "
        "above its control.",
        "A setting is dominated if another one leaks no more and keeps no less accuracy. Leakage "
        "is that of the adversary that recovers more.",
        "All settings train with the same rate. With filters 24 and 48, and with sigmoid, the "
        "network does not learn at this rate.",
        "Clients' labels follow a Dirichlet distribution with alpha 0.5. A round takes one "
        "gradient of 32 examples from each. "
        "Accuracy is the mean over the last tenth of the rounds, on images that no client holds.",
        "Mixup hides images only if lambda is near 1/2. Five local steps take five times the computation.",
        "Soteria's ratios are estimated along 16 random directions.",
        "Rows name several commits. After the first one, the adversaries of mixup, PRECODE, "
        "local layers and sparsification "
        "were made stronger, and these rows were measured again.",
        "InstaHide trains on encryptions and is tested on plain images. Its authors test in another way. "
        "Mixup is tested on plain images too.",
        "Batches of other sizes and DCS-2 have no accuracy. The accuracy of DP-SGD is that of "
        "[DP-SGD](dp_sgd.md), the same call.",
        "The adversaries of QSGD, dropout and mixup were tuned on other images.",
        "The settings are in `benchmarks/frontier_settings.py`.",
    ),
    takes="5 to 300 s of CPU for each attack, 8 to 200 s for each training",
)
