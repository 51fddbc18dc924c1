"""How the patches of a convolution overlap: places that they link, and copies of an input that fit as well.

References: Ours. We know of no publication.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from leakgauge.analytic.convolutions.geometry import Geometry


@dataclass(frozen=True)
class Components:
    """Places that are linked by taps. Equations of one component do not touch another.

    Args:
        groups: For each component its places, and the (reader, number of places) of its taps.
        all_read: Whether every place is read.
    """

    groups: tuple[tuple[Tensor, tuple[tuple[int, int], ...]], ...]
    all_read: bool


def components(geometries: Sequence[Geometry]) -> Components:
    """Return the components of the places that layers read. A stride of 2 makes one of each parity."""
    places = geometries[0].places
    label = torch.arange(places + 1)
    read = torch.zeros(places + 1, dtype=torch.bool)
    taps = [
        (i, torch.unique(row[row < places])) for i, g in enumerate(geometries) for row in g.sees.T
    ]
    taps = [(i, row) for i, row in taps if len(row)]
    changed = True
    while changed:
        changed = False
        for _, row in taps:
            read[row] = True
            least = label[row].min()
            if bool((label[row] != least).any()):
                label[row] = least
                changed = True
    groups = []
    for root in torch.unique(label[:places][read[:places]]).tolist():
        members = (label[:places] == root).nonzero()[:, 0]
        inside = tuple((i, len(row)) for i, row in taps if int(label[row[0]]) == root)
        groups.append((members, inside))
    return Components(tuple(groups), bool(read[:places].all()))


def joined(geometry: Geometry) -> bool:
    """Return whether patches that share places hold one input together, and no copy at other places passes."""
    if geometry.positions == 1:
        return bool((geometry.reads > 0).all())
    if int(geometry.reads.min()) == 0 or int(geometry.reads.max()) == 1:
        return False
    if any(shifts(geometry, axis) for axis in range(len(geometry.size))):
        return False
    return _connected(geometry)


def _connected(geometry: Geometry) -> bool:
    """Return whether steps between patches that share a place lead from each patch to every other."""
    label = torch.arange(geometry.positions)
    sees, places = geometry.sees, geometry.places
    owner = torch.arange(geometry.positions)[:, None].expand_as(sees)
    real = sees < places
    for _ in range(geometry.positions):
        least = torch.full((places,), geometry.positions)
        least.scatter_reduce_(0, sees[real], label[owner[real]], "amin")
        best = torch.where(real, least[sees.clamp_max(places - 1)], geometry.positions)
        new = torch.minimum(label, best.amin(1))
        if torch.equal(new, label):
            break
        label = new
    return bool((label == label[0]).all())


def shifts(geometry: Geometry, axis: int) -> bool:
    """Return whether a copy of an input, moved along an axis by one position, has only patches of the input.

    This happens if the padding is seen from one side alone, as with a stride of 2 and an even size. The
    copies lie in the row space, too.
    """
    steps = _along(geometry, axis)
    if len(steps) < 2:
        return False
    size = geometry.size[axis]
    real = steps >= 0
    both = real[0] & real[1]
    if not bool(both.any()):
        return False
    stride = int((steps[1] - steps[0])[both][0])
    first, last = steps[0][real[0]], steps[-1][real[-1]]
    forward = int(first.max()) < stride and bool(real[-1].all())
    backward = int(last.min()) >= size - stride and bool(real[0].all())
    return forward or backward


def _along(geometry: Geometry, axis: int) -> Tensor:
    """Return the coordinate (outputs, taps) that each output and tap reads along an axis, -1 on padding."""
    block = 1
    for size in geometry.size[axis + 1 :]:
        block *= size
    place = geometry.sees
    coordinate = torch.where(place < geometry.places, place // block % geometry.size[axis], -1)
    coordinate = coordinate.reshape(*geometry.output, *geometry.kernel)
    axes = len(geometry.size)
    others = [i for i in range(2 * axes) if i not in (axis, axes + axis)]
    return coordinate.amax(others) if others else coordinate
