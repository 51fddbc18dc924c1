"""What one attack step costs."""

from tables import figures
from tables.documents import Document, Row
from tables.page import Page, Plot
from tables.table import Column, Table, compact, split

NAMES = {"lenet": "LeNet", "convnet": "ConvNet of width 64", "resnet18": "ResNet-18"}
PLAIN = "plain gradient"
COLUMNS = [
    Column(
        "ratio",
        figures.median("ratio"),
        "median time, divided by that of the plain gradient",
        ".2f",
    ),
    Column(
        "ms",
        lambda rows: 1e3 * float(rows[0]["seconds"]),
        "median milliseconds of one call",
        compact,
    ),
    Column("peak MiB", figures.median("peak_mib"), "peak memory of one call", compact),
    Column(
        "of plain",
        figures.median("memory"),
        "peak memory, divided by that of the plain gradient",
        ".2f",
    ),
    Column("build s", figures.median("build_seconds"), "seconds to build the step, once"),
]


def reshaped(document: Document) -> list[Row]:
    """Return one row for each way to take a step."""
    found = []
    for row in document.rows:
        plain = row["ways"][PLAIN]["peak_mib"]
        keys = {"model": row["model"], "batch": row["batch"], "several": row["trials"]}
        for way, told in row["ways"].items():
            more = {"way": way, "memory": told["peak_mib"] / plain, "commit": row["commit"]}
            found.append(keys | told | more)
    return found


def title(row: Row) -> str:
    """Return the heading of a row's table."""
    several = f", {row['several']} restarts" if row["several"] > 1 else ""
    return f"{NAMES[row['model']]}, batch of {row['batch']}{several}"


def tables(document: Document) -> list[Table]:
    """Return one table for each model, batch size and number of restarts."""
    return split(reshaped(document), title, str, {"way": "way"}, COLUMNS)


PAGE = Page(
    title="What one attack step costs",
    asks="What does one step of gradient matching cost, in plain training gradients of the same batch?",
    short="What does one attack step cost, in plain training gradients?",
    theme="Cost and quality of the tool",
    done=(
        "Cosine distance with total variation, float32, one thread, images of 32 by 32. "
        "Each way runs in turn, many rounds in one process. No attack is scored, so there is no control."
    ),
    tables=tables,
    plot=Plot(
        value="ratio",
        control="",
        low="",
        high="",
        tables=(0, 2, 4, 6),
        axis="time over that of a plain gradient",
        alt="Time of each way to take a step, over that of the plain gradient",
    ),
    notes=(
        "A way is one method to compute the value and the gradient of a step. `ratio` is its time "
        "divided by that of the plain gradient in the same round, the median over rounds.",
        "Memory is the largest running sum that torch's CPU allocator reports during one call. "
        "It contains buffers of generated code. It does not contain parameters and the observed "
        "update, which all ways share.",
        "Eight restarts run in a loop, or together as one axis. Their times are divided by that of "
        "eight plain gradients.",
    ),
    takes="about 30 min, not recorded",
)
