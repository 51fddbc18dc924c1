"""Every attack on every module of the zoo."""

from collections.abc import Sequence

from tables import figures
from tables.documents import Document, Row
from tables.page import Page, Plot
from tables.table import Column, Table, tabulate

OUTCOMES = {
    "read": "pairs that score 3 dB or more above the control",
    "ran": "other pairs that ran",
    "inapplicable": "pairs that the attack says it cannot run on, with its reason",
    "declined": "pairs that are refused with an error message for the user",
    "failed": "pairs that ended in another error",
}
BLIND = "the same attack on the update of another batch"


def outcome(name: str) -> figures.Figure:
    """Return how many pairs have an outcome."""
    return lambda rows: sum(row["outcome"] == name for row in rows)


def certified(rows: Sequence[Row]) -> list[Row]:
    """Return the certified pairs."""
    return [row for row in rows if row.get("status") == "certified"]


COLUMNS = [
    Column("n", figures.length, "pairs of attack and module", ".0f"),
    *(Column(name, outcome(name), about, ".0f") for name, about in OUTCOMES.items()),
    Column("dB", figures.median("psnr"), "median PSNR of pairs that ran"),
    Column("control dB", figures.median("control_psnr"), f"median of the blind control: {BLIND}"),
    Column(
        "certified",
        lambda rows: len(certified(rows)),
        "pairs whose result the attack certifies as exact",
        ".0f",
    ),
    Column(
        "least certified dB",
        lambda rows: figures.least("psnr")(certified(rows)),
        "worst PSNR of certified pairs",
    ),
]


def tables(document: Document) -> list[Table]:
    """Return outcomes in all, by attack, of modules with failures, and by module."""
    rows = [
        {"module": row["module"], "attack": name, "commit": row["commit"], **cell}
        for row in document.rows
        for name, cell in row["cells"].items()
    ]
    failing = {row["module"] for row in rows if row["outcome"] == "failed"}
    some = [row for row in rows if row["module"] in failing]
    return [
        tabulate("All pairs", rows, {"pairs": lambda _: "all"}, COLUMNS),
        tabulate("By attack", rows, {"attack": "attack"}, COLUMNS),
        tabulate("Modules with failures", some, {"module": "module"}, COLUMNS[:6]),
        tabulate("By module", rows, {"module": "module"}, COLUMNS),
    ]


PAGE = Page(
    title="Every attack on every ordinary module",
    asks="Does every attack run on every ordinary module, or say why it cannot?",
    short="Does every attack run on every ordinary module?",
    theme="Cost and quality of the tool",
    done=(
        "Modules, losses and attacks of the contract tests (`tests/zoo`, `tests/support`), with "
        "uniform random examples. "
        f"The control is {BLIND}, scored against the private batch."
    ),
    tables=tables,
    plot=Plot(
        value="dB",
        low="",
        high="",
        tables=(1,),
        alt="Median PSNR of each attack over the zoo, with the control",
    ),
    notes=(
        "Searches are short: ten times three steps.",
        "A pair counts as read (recovered) if it scores 3 dB or more above its control.",
        "All failures are on modules that refuse what a search asks of them: "
        "they assert a property of their inputs, or use reentrant checkpointing.",
        "PSNR is capped at 200 dB.",
    ),
    takes="20 min of one core, shared with other work",
)
