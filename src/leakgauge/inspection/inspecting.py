"""Inspection: what any network gives away, counted layer by layer, without any data."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from leakgauge.core import Domain
from leakgauge.core.ranges import Count, check_argument
from leakgauge.inspection.advice import advice
from leakgauge.inspection.attacked import read_batches
from leakgauge.inspection.counted import Counted, counted
from leakgauge.inspection.domains import domain_of
from leakgauge.inspection.layers import Layer
from leakgauge.inspection.result import Inspection, Row, limited
from leakgauge.inspection.verdict import (
    exact_of,
    features_of,
    may_read_more,
    read_by_attacks,
    verdict,
)


def inspect(
    model: nn.Module,
    shape: Sequence[int] | Domain,
    *,
    batch: int | None = None,
    steps: int = 1,
    clients: int = 1,
    vocabulary: int | None = None,
) -> Inspection:
    """Count up to which batch size algebra reads the input of each layer from a shared update.

    Use it before any private data exists. It needs the network alone, and takes seconds. Counts hold for exact
    arithmetic and for generic data. Rounding can end a search earlier, and noise always does.
    Constant parts of the examples, such as black borders, can lower a rank, and less is read.

    Args:
        model: The network. Its mode, train or eval, is that of the client.
        shape: Shape of one example without the batch, or a domain.
        batch: Number of private examples for the verdict, at least 1. By default the verdict covers all sizes.
        steps: Number of local steps on the whole batch, at least 1. 1 is one shared gradient.
        clients: Number of clients whose updates are summed before the server sees them, at least 1.
        vocabulary: Number of tokens, for a network that reads tokens. By default it reads numbers.

    Returns:
        A row for each layer, the verdict, and changes that lower it.

    Raises:
        SpecificationError: An argument is out of range.
        ModelError: The model fails on examples of this shape, or cannot be traced.

    References:
        Ours. We know of no publication.

    Example:
        >>> import leakgauge as lg
        >>> model = lg.models.build(lg.models.lenet, lg.ImageDomain(3, 32, 32), 10)
        >>> lg.inspect(model, (3, 32, 32), batch=1).verdict  # doctest: +ELLIPSIS
        'Batch 1: exact through features.0, 4 of 4 layers. The example itself is exact. ...'
    """
    check_argument("model", nn.Module, model)
    check_argument("batch", Count | None, batch)
    check_argument("steps", Count, steps)
    check_argument("clients", Count, clients)
    domain = domain_of(shape, vocabulary)
    counts = counted(model, domain, steps=steps, clients=clients)
    read = read_batches(counts)
    return Inspection(
        rows=tuple(_row(counts, layer, read[layer.node]) for layer in counts.layers),
        exact=limited(exact_of(counts)),
        read=limited(max(read.values(), default=0)),
        examples=limited(counts.entry),
        features=limited(features_of(counts)),
        numbers=counts.numbers,
        steps=steps,
        clients=clients,
        batch=batch,
        verdict="".join(
            (
                verdict(counts, batch),
                read_by_attacks(counts, read, batch),
                may_read_more(counts, read, batch),
            )
        ),
        advice=advice(counts),
    )


def _row(counts: Counted, layer: Layer, read: int) -> Row:
    """Return the row of one layer."""
    found, reader = counts.owns[layer.node], layer.reader
    note = found.note
    if layer.calls > 1 and "tied" not in note:
        note = f"used {layer.calls} times" + (f": {note}" if note else "")
    dead = 0 if reader is None else layer.outputs - reader.outputs
    if dead > 0:
        note += f"{'; ' if note else ''}{dead} of {layer.outputs} channels dead on noise"
    batch = counts.batch(layer)
    attack = found.attack or ("from above" if batch else "")
    if attack and not read:
        attack += ", algebra only"
    return Row(
        layer=layer.name,
        kind=layer.kind,
        outputs=None if reader is None else layer.outputs,
        positions=None if reader is None else reader.positions,
        numbers=layer.numbers,
        parameters=layer.parameters,
        own=limited(counts.shared(found.batch)),
        attack=attack,
        batch=limited(batch),
        read=limited(read),
        note=note,
    )
