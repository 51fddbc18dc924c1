"""FedAvg: what local steps hide."""

from tables import figures
from tables.columns import RESIDUAL, SECONDS, control, count, score
from tables.documents import Document, Row
from tables.page import Page, Plot
from tables.table import Column, Table, split, tabulate

HOW = {
    "ignored": "taken for one gradient",
    "surrogate": "surrogate",
    "corrected": "corrected surrogate",
    "corrected, told": "corrected surrogate, order granted",
    "unrolled": "unrolled",
    "unrolled, told": "unrolled, order granted",
    "order invariant": "order invariant",
}
COLUMNS = [count(), *score(), control(), RESIDUAL, SECONDS]
COUNTED = [
    Column("updates", figures.count("counts"), "number of updates", ".0f"),
    Column(
        "labels counted, %",
        lambda rows: 100 * (figures.median("counts")(rows) or 0),
        "median percentage of the batch's labels that are counted correctly, if none is granted",
        ".0f",
    ),
]


def title(row: Row) -> str:
    """Return the heading of a row's table."""
    step = "one example" if row["minibatch"] else "full batch"
    return f"Batches of {row['size']}, {step} a step, rate {row['rate']:g}"


def order(row: Row) -> tuple[object, ...]:
    """Return where a row stands."""
    return row["size"], row["minibatch"], row["rate"], row["epochs"], list(HOW).index(row["how"])


def tables(document: Document) -> list[Table]:
    """Return one table for each batch size, kind of step and rate, then label counts."""
    by = {"local steps": "local_steps", "local steps are": lambda row: HOW[row["how"]]}
    found = split(document.rows, title, str, by, COLUMNS, order)
    ignored = [row for row in document.rows if row["how"] == "ignored"]
    counted = {"training": title, "local steps": "local_steps"}
    return [*found, tabulate("Label counts", ignored, counted, COUNTED, order)]


PAGE = Page(
    title="FedAvg: what local steps hide",
    asks="How much do 1 to 20 local epochs hide from adversaries that ignore, approximate or unroll them?",
    short="How much do FedAvg's local steps hide?",
    theme="Federated protocols",
    done=(
        "LeNet on CIFAR-10 with labels granted. A step sees one example, shuffled in each epoch, or the whole batch. "
        "The control is the same reconstruction scored against other images."
    ),
    tables=tables,
    plot=Plot(
        across="local steps",
        tables=(0, 1, 2, 3),
        log=True,
        alt="PSNR against the number of local steps by attack, with the control dotted",
    ),
    notes=(
        "The first of two draws is complete. The second has only 18 of its rows.",
        "The two commits differ only in the order of rows.",
        "Every attack is L-BFGS with a prior that vanishes as the search ends. Where the "
        "simulation is known to be wrong (`taken for one gradient`, `surrogate`), a hundredth of "
        "the prior remains. It is the best of 1e-1, 1e-2 and 1e-3 on draws 5 and 6.",
        "`surrogate` matches one gradient at a model between the start and the end. `corrected "
        "surrogate` also runs the true local steps, and corrects the surrogate by the "
        "difference.",
        "`unrolled` simulates all local steps. `order invariant` does too, "
        "with one batch for each epoch, whose mean images agree. Both pay for each local step in "
        "each evaluation. They run up to 20 local steps.",
        "`order granted`: the adversary knows which example came when.",
        "Without the order, the simulation uses one order among many. So even the true batch then "
        "has a residual.",
        "Labels are counted without any grant.",
    ),
    takes="a minute for each row, on a machine with several other processes",
)
