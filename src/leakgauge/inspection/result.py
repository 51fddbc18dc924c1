"""The result of an inspection: a row for each layer, a verdict, and the changes that lower it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from leakgauge.analytic.convolutions.counting import MANY
from leakgauge.core.lines import one_line

LONGEST = 60
"""Most characters of a layer's name in a table."""


def batch_text(batch: int | None) -> str:
    """Return a batch size in words: "any" for None, "-" for 0."""
    return "any" if batch is None else str(batch) if batch else "-"


def limited(batch: int) -> int | None:
    """Return a batch size, or None if any batch is meant."""
    return None if batch >= MANY else batch


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one layer gives away.

    Args:
        layer: Name of the layer.
        kind: "convolution", "linear", "embedding", or "other", which is not counted.
        outputs: Number of output channels with a signal, or None if not counted.
        positions: Number of positions of one example, or None if not counted.
        numbers: Numbers of the layer's input, for one example.
        parameters: Number of entries of the weight.
        own: Largest batch whose inputs the layer's own gradient determines. None for any batch.
        attack: The method that reads it, or an empty text. It ends with ", algebra only" if no attack of LeakGauge
            reads the layer.
        batch: Largest batch whose inputs are determined with the help of all other layers. None for any batch.
        read: Largest batch whose inputs an attack of LeakGauge reads, by counting. None for any batch.
        note: Why not more, in numbers.

    Example:
        >>> import leakgauge as lg
        >>> model = lg.models.build(lg.models.lenet, lg.ImageDomain(3, 32, 32), 10)
        >>> row = lg.inspect(model, (3, 32, 32)).rows[-1]
        >>> row.layer, row.own, row.attack
        ('linear', 9, 'softmax_unmixing')
    """

    layer: str
    kind: str
    outputs: int | None
    positions: int | None
    numbers: int
    parameters: int
    own: int | None
    attack: str
    batch: int | None
    read: int | None
    note: str


@dataclass(frozen=True, kw_only=True)
class Advice:
    """A change of the network or the protocol, with the batch that is exact after it.

    Args:
        change: What to do.
        exact: Largest batch that is exact at some layer after the change. None for any batch.
        withheld: Fraction of the weights that are not shared any more, in [0, 1].

    Example:
        >>> import leakgauge as lg
        >>> model = lg.models.build(lg.models.lenet, lg.ImageDomain(3, 32, 32), 10)
        >>> [advice.exact for advice in lg.inspect(model, (3, 32, 32)).advice]
        [0, 0]
    """

    change: str
    exact: int | None
    withheld: float


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What a network gives away by counting, without any data.

    Args:
        rows: One row for each layer, in the order of their calls.
        exact: Largest batch that is exact at some layer. None for any batch.
        read: Largest batch that an attack of LeakGauge reads at some layer. None for any batch.
        examples: Largest batch whose examples themselves follow by linear algebra. None for any batch.
        features: Largest batch at which a layer is exact that has at least as many numbers as an example.
        numbers: Numbers of one example.
        steps: Number of local steps.
        clients: Number of clients whose updates are summed.
        batch: The batch size that was given, or None.
        verdict: The verdict in sentences.
        advice: Changes that lower `exact`, the lowest first.

    Example:
        >>> import leakgauge as lg
        >>> model = lg.models.build(lg.models.resnet18, lg.ImageDomain(3, 32, 32), 10)
        >>> found = lg.inspect(model, (3, 32, 32))
        >>> found.exact, found.rows[-2].layer, found.rows[-2].batch
        (31, 'layer4.1.conv2', 31)
    """

    rows: tuple[Row, ...]
    exact: int | None
    read: int | None
    examples: int | None
    features: int | None
    numbers: int
    steps: int
    clients: int
    batch: int | None
    verdict: str
    advice: tuple[Advice, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the result as values for JSON. None stands for any batch."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the result as lines of text: a table, the verdict, and the advice."""
        heading = (
            "layer",
            "outputs",
            "positions",
            "numbers",
            "own",
            "batch",
            "read",
            "attack",
            "note",
        )
        table = [heading, *(_cells(row) for row in self.rows)]
        widths = [max(len(cells[i]) for cells in table) for i in range(len(heading) - 1)]
        found = []
        for cells in table:
            start = [
                cell.rjust(width) if 1 <= i <= 6 else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(cells, widths, strict=False))
            ]
            found.append("  ".join([*start, cells[-1]]).rstrip())
        found += ["", self.verdict]
        if self.advice:
            found += ["", "Changes that lower it, with the largest exact batch after each:"]
            found += [f"  {batch_text(each.exact):>4}  {each.change}" for each in self.advice]
        return found


def _cells(row: Row) -> tuple[str, ...]:
    """Return the texts of one row."""
    counts = ["-" if n is None else f"{n}" for n in (row.outputs, row.positions)]
    batches = (batch_text(row.own), batch_text(row.batch), batch_text(row.read))
    # Names of layers are a user's own, and may hold control characters.
    name = one_line(row.layer, LONGEST)
    return (name, *counts, str(row.numbers), *batches, row.attack or "-", row.note)
