"""The verdict of an inspection, in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import fx

from leakgauge.analytic.convolutions.beginning import why_none_begins
from leakgauge.analytic.convolutions.counting import MANY
from leakgauge.analytic.convolutions.operations import is_rectified, name_of
from leakgauge.inspection.counted import Counted

SHOWN = 3
"""Most levels that the verdict names."""
READ = " By counting for generic data, attacks of LeakGauge read"
"""Start of the sentence on what attacks read. Constant parts of examples can lower a rank, and then less is read."""
ZERO = 2
"""A rectifier's outputs count by one half, since about half of them are 0."""


def exact_of(counts: Counted) -> int:
    """Return the largest batch at which some layer's input is read exactly, for every example."""
    return max((batch for _, batch in _read(counts)), default=0)


def features_of(counts: Counted) -> int:
    """Return the largest batch at which a layer is exact that has at least as many numbers as an example."""
    enough = [
        counts.batch(layer)
        for layer in counts.layers
        if layer.kind in ("convolution", "linear")
        and layer.numbers >= counts.numbers * (ZERO if is_rectified(layer.source) else 1)
    ]
    return max(enough, default=0)


def _read(counts: Counted) -> list[tuple[str, int]]:
    """Return the name and the batch of layers whose input is read, in the order of their calls."""
    layers = [layer for layer in counts.layers if layer.kind in ("convolution", "linear")]
    return [(layer.name, counts.batch(layer)) for layer in layers]


def levels(counts: Counted) -> list[tuple[int, str]]:
    """Return the batch sizes at which the reach changes, the largest first, each with the lowest layer read."""
    read = _read(counts)
    found: list[tuple[int, str]] = []
    deepest = len(read)
    for batch in sorted({batch for _, batch in read if batch}, reverse=True):
        lowest = min(i for i, (_, b) in enumerate(read) if b >= batch)
        if lowest < deepest:
            found.append((batch, read[lowest][0]))
            deepest = lowest
    return found


def verdict(counts: Counted, batch: int | None) -> str:
    """Return the verdict, for one batch size if it is given."""
    steps = levels(counts)
    if not steps:
        return "By counting, no layer gives its input away. Gradient matching is left."
    text = _at(counts, batch) if batch is not None else _through(steps)
    entry = counts.entry
    if batch is None and entry:
        size = "any batch" if entry >= MANY else f"batch {entry}"
        text += f" The example itself is exact to {size}."
    elif batch is None:
        text += _outnumbered(counts)
    if batch is None and entry < steps[0][0]:
        text += " From there on by matching."
    return text


def read_by_attacks(counts: Counted, read: Mapping[fx.Node, int], batch: int | None) -> str:
    """Return how much of it attacks of LeakGauge read, as a sentence behind the verdict, or an empty text.

    Args:
        counts: The counts.
        read: Largest batch that an attack reads, for each layer by its node.
        batch: The batch size of the verdict, or None for all.
    """
    layers = [layer for layer in counts.layers if layer.kind in ("convolution", "linear")]
    least = 1 if batch is None else batch
    exact = [layer for layer in layers if counts.batch(layer) >= least]
    seen = [layer for layer in layers if read[layer.node] >= least]
    if not exact:
        return ""
    if not seen:
        return " No attack of LeakGauge reads it yet: this is what the algebra determines."
    if all(read[layer.node] == counts.batch(layer) for layer in exact) or (
        batch is not None and len(seen) == len(exact)
    ):
        return f"{READ} all of it."
    most = max(read[layer.node] for layer in seen)
    size = "any batch" if most >= MANY else f"batch {most}"
    reach = f"batch {batch}" if batch is not None else size
    if len(seen) == len(exact):
        return f"{READ} to {reach}. The algebra alone determines the rest."
    return (
        f"{READ} to {reach}, and {len(seen)} of these {len(exact)} layers. "
        "The algebra alone determines the rest."
    )


def may_read_more(counts: Counted, read: Mapping[fx.Node, int], batch: int | None) -> str:
    """Return in which way `shift_consistency` may read more than is counted, as a sentence, or an empty text.

    Args:
        counts: The counts.
        read: Largest batch that an attack reads, for each layer by its node.
        batch: The batch size of the verdict, or None for all.
    """
    plan, outline, least = counts.planned, counts.outline, batch or 1
    if counts.steps > 1 or outline is None:
        return ""
    total = least * counts.clients
    seen = [x for x in counts.layers if x.kind == "convolution" and read[x.node] >= least]
    if not seen and why_none_begins(replace(outline, count=total)) is None:
        return " Numbers of channels alone let shift_consistency begin, so it may read more than is counted."
    blocks = {block.layer.node: most for block, most in plan.blocks}
    through = (min(n, counts.owns[x].batch) for x, n in (*plan.spans.items(), *blocks.items()))
    alone = max((min(n, counts.owns[x].batch) for x, n in plan.alone.items()), default=0)
    joined = any(name_of(node) == "cat" for node in counts.network.graph.nodes)
    if joined and alone > max(through, default=0) and alone >= total:
        return " Layers that read several earlier outputs may tell shift_consistency more than is counted."
    return ""


def _through(steps: Sequence[tuple[int, str]]) -> str:
    """Return how far each batch is exact."""
    if len(steps) > SHOWN:
        steps = [steps[0], *steps[1 : SHOWN - 1], steps[-1]]
    parts = [
        f"to {'any batch' if size >= MANY else f'batch {size}'} through {name}"
        for size, name in steps
    ]
    return f"Exact {', '.join(parts)}."


def _outnumbered(counts: Counted) -> str:
    """Return up to which batch exact features have more numbers than an example."""
    features = features_of(counts)
    if not features:
        return " No exact layer has as many numbers as an example."
    size = "any batch" if features >= MANY else f"batch {features}"
    return f" To {size}, exact features outnumber the example, so that least squares can give it."


def _at(counts: Counted, batch: int) -> str:
    """Return the verdict for one batch size."""
    read = _read(counts)
    known = [name for name, most in read if most >= batch]
    if not known:
        return f"Batch {batch}: no layer's input is exact, since the largest exact batch is {exact_of(counts)}."
    text = f"Batch {batch}: exact through {known[0]}, {len(known)} of {len(read)} layers."
    if counts.entry >= batch:
        return text + " The example itself is exact."
    if features_of(counts) >= batch:
        return text + " Exact features outnumber the example, so that least squares can give it."
    return text + " From there on by matching."
