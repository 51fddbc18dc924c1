"""Label counts from one gradient."""

from collections.abc import Sequence
from statistics import fmean

from tables import figures
from tables.documents import Document, Row
from tables.page import Page, Plot
from tables.table import Column, Table, split
from tables.words import METHODS, network

LABELS = {"drawn": "as drawn", "equal": "all equal", "zipf": "Zipf"}


def of_method(name: str, field: str) -> figures.Figure:
    """Return the mean percentage of one method, or None if it did not run."""

    def figure(rows: Sequence[Row]) -> float | None:
        found = [row["methods"].get(name, {}).get(field) for row in rows]
        counted = [100 * value for value in found if value is not None]
        return fmean(counted) if counted else None

    return figure


def columns(rows: Sequence[Row], field: str) -> list[Column]:
    """Return one column for each method."""
    methods = list(dict.fromkeys(name for row in rows for name in row["methods"]))
    n = Column("n", figures.length, "number of batches", ".0f")
    return [n, *(Column(head(name), of_method(name, field)) for name in methods)]


def head(method: str) -> str:
    """Return the heading of a method. The guess without an update is the control."""
    return "control" if method.startswith("no update") else METHODS.get(method, method)


def tables(document: Document) -> list[Table]:
    """Return percentages of instances, then of classes, one table for each network."""
    rows = document.rows
    by = {"batch": "batch", "labels": lambda row: LABELS[row["labels"]]}
    instances = split(
        rows,
        lambda row: network(row["network"]),
        "Instances, {}".format,
        by,
        columns(rows, "instances"),
    )
    classes = split(
        rows,
        lambda row: network(row["network"]),
        "Classes, {}".format,
        by,
        columns(rows, "classes"),
    )
    return [*instances, *classes]


PAGE = Page(
    title="Label counts from one gradient",
    asks="How many labels does one gradient give away, by each method?",
    short="How many labels does one gradient give away?",
    theme="Labels",
    done=(
        "The models are LeNet, ResNet-20 and MobileNetV1 with 1000 classes. Batches have 1 to 1024 examples. "
        "The control guesses all classes equally often and sees no update."
    ),
    tables=tables,
    plot=Plot(
        value="best",
        control="control",
        across="batch",
        log=True,
        tables=(0, 1, 3, 4, 6),
        axis="counted right, %",
        alt="Label instances that our best method counts right, by batch size and labels, with the control dotted",
    ),
    notes=(
        "All numbers are percentages. Instances: for each class take the smaller of the true and "
        "the recovered count, sum over classes, divide by the batch size. Classes: the fraction, "
        "of those present or claimed, whose count is exact.",
        "Each column after `n` is a method, under the name from its paper. A dash means that the "
        "method did not run.",
        "With ten classes, the control alone counts most labels of "
        "a batch of 64 or more, drawn or Zipf. A method has to exceed it.",
        "On the trained ResNet-20 with ten classes, all present, "
        "the control comes close to every method: a confident network's gradient says almost nothing.",
        "`best` is `recover_labels`. Each row of the JSON names the method that was used (`by`).",
        "RLG recovers only which classes are present. On 1000 classes it ran up to batch 8.",
        "LLG+ and tilting use 100 labeled training images.",
        "The constants of tilting were chosen on other batches of ResNet-20 untrained, after an epoch, and trained, "
        "by their true counts. Figures on these networks may flatter it.",
        "Only the last layer of the update is computed, since no method uses more.",
        "Images of MobileNetV1 are random crops of 60 photographs, one of each of 60 classes.",
        "One batch is drawn at sizes of 256 and 1024, two or three at smaller ones.",
        "The trained ResNet-20 is attacked on images that it was trained on, and on test images.",
        "Seconds in the rows are by the clock on a shared machine, paused for about 7 minutes. Do "
        "not compare them, least of all the 172 s of one row.",
    ),
    takes="50 min by the clock, on a shared machine (about 7 of them paused)",
)
