"""Changes of a network that lower what it gives away. Each is counted again, on the changed layers."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import replace

from leakgauge.analytic.convolutions.counting import MANY, Reader
from leakgauge.analytic.convolutions.geometry import geometry_of
from leakgauge.inspection.counted import Counted
from leakgauge.inspection.layers import Layer
from leakgauge.inspection.result import Advice, limited
from leakgauge.inspection.verdict import exact_of

MOST = 6
"""Most changes that are listed."""


def advice(counts: Counted) -> tuple[Advice, ...]:
    """Return changes that lower the largest exact batch, the most effective first."""
    before = exact_of(counts)
    if not before:
        return ()
    found = [each for each in _candidates(counts) if (each.exact or 0) < before]
    found = [each for each in found if each.exact is not None and each.withheld < 1]
    return tuple(sorted(found, key=lambda a: (a.exact, a.withheld)))[:MOST]


def _candidates(counts: Counted) -> Iterator[Advice]:
    """Yield all changes, with their counts."""
    yield from _withheld(counts)
    yield from _narrower(counts)
    yield from _grouped(counts)
    yield from _disjoint(counts)
    most = exact_of(counts)
    if most < MANY:
        total = most * counts.clients
        yield Advice(
            change=f"sum the updates of {total + 1} clients or more", exact=0, withheld=0.0
        )


def _open(counts: Counted) -> list[Layer]:
    """Return the layers whose own gradient determines their input."""
    kinds = ("convolution", "linear")
    return [x for x in counts.layers if x.kind in kinds and counts.owns[x.node].batch > 0]


def _withheld(counts: Counted) -> Iterator[Advice]:
    """Yield for each level the change that withholds the gradients of all layers at or above it."""
    total = sum(layer.parameters for layer in counts.layers if layer.trained)
    for level in sorted({counts.owns[x.node].batch for x in _open(counts)}, reverse=True):
        names = {x.name for x in _open(counts) if counts.owns[x.node].batch >= level}

        def freeze(layer: Layer, names: Collection[str] = frozenset(names)) -> Layer:
            return replace(layer, trained=False) if layer.name in names else layer

        size = sum({x.name: x.parameters for x in counts.layers if x.name in names}.values())
        fraction = size / total
        yield Advice(
            change=f"freeze or withhold {_named(names, counts)} ({fraction:.1%} of the weights)",
            exact=limited(exact_of(counts.changed(freeze))),
            withheld=fraction,
        )


def _named(names: Collection[str], counts: Counted) -> str:
    """Return names in few words. A prefix stands for all layers that have it."""
    trained = [layer.name for layer in counts.layers if layer.trained]
    left, shown = [name for name in trained if name in names], list[str]()
    while left:
        parts = left[0].split(".")
        prefixes = [".".join(parts[: i + 1]) for i in range(len(parts))]
        for prefix in prefixes:
            members = [n for n in trained if f"{n}.".startswith(f"{prefix}.")]
            if all(member in names for member in members):
                break
        shown.append(prefix)
        left = [name for name in left if name not in members]
    return ", ".join(shown) if len(shown) <= 4 else f"{shown[0]}, {shown[1]}, ... {shown[-1]}"


def _convolutions(counts: Counted) -> list[Layer]:
    """Return the convolutions of several positions whose own gradient determines their input."""
    return [
        x
        for x in _open(counts)
        if x.kind == "convolution" and x.reader is not None and x.reader.positions > 1
    ]


def _swapped(counts: Counted, readers: dict[str, Reader]) -> int | None:
    """Return the largest exact batch with other equations for some layers."""

    def swap(layer: Layer) -> Layer:
        return replace(layer, reader=readers.get(layer.name, layer.reader))

    return limited(exact_of(counts.changed(swap)))


def _exchange(counts: Counted, readers: dict[str, Reader], change: str) -> Iterator[Advice]:
    """Yield a change of the layers in `readers`, or nothing if there are none."""
    if readers:
        change = f"{change} in {_named(readers, counts)}"
        yield Advice(change=change, exact=_swapped(counts, readers), withheld=0.0)


def _narrower(counts: Counted) -> Iterator[Advice]:
    """Yield the change that gives convolutions fewer channels than positions."""
    readers = {
        x.name: replace(x.reader, outputs=min(x.reader.outputs, x.reader.positions - 1))
        for x in _convolutions(counts)
        if x.reader is not None and x.reader.groups == 1
    }
    most = sorted({reader.outputs for reader in readers.values()})
    text = " and ".join(map(str, most[:3]))
    yield from _exchange(counts, readers, f"fewer channels than positions: at most {text}")


def _grouped(counts: Counted) -> Iterator[Advice]:
    """Yield the change that groups the channels of convolutions, so that no group outnumbers the positions."""
    readers = {}
    for layer in _convolutions(counts):
        reader = layer.reader
        if reader is None or reader.groups > 1:
            continue
        common = math.gcd(layer.node.meta["val"].shape[1], reader.channels)
        fits = (g for g in range(2, common + 1) if common % g == 0)
        groups = next((g for g in fits if reader.outputs // g < reader.positions), None)
        if groups is not None:
            readers[layer.name] = replace(reader, groups=groups)
    text = " and ".join(map(str, sorted({reader.groups for reader in readers.values()})))
    yield from _exchange(counts, readers, f"grouped kernels: {text} groups")


def _disjoint(counts: Counted) -> Iterator[Advice]:
    """Yield the change to kernels of one tap, whose patches do not overlap."""
    readers = {}
    for layer in _convolutions(counts):
        assert layer.reader is not None
        old = layer.reader.geometry
        axes = len(old.size)
        strides = [max(1, n // m) for n, m in zip(old.size, old.output, strict=True)]
        new = geometry_of(old.size, kernel=strides, stride=strides)
        if new.positions > 1 and axes:
            readers[layer.name] = replace(layer.reader, geometry=new)
    yield from _exchange(counts, readers, "kernels no larger than their stride")
