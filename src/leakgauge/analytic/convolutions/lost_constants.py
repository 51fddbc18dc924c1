"""Constants that a BatchNorm in train mode removes, so that no gradient above it tells them.

Take a class of places that some taps read at all positions, while the other taps never read them.
Examples are the even places under a stride of 2, or all places under a kernel of one tap. A constant
on this class adds a constant to the output of the convolution, and BatchNorm subtracts it. Behind a
ReLU, inputs are 0 at many places. The least value of the class in the batch is 0, which fixes the
constant.

References:
    Ours. We know of no publication.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from leakgauge.analytic.convolutions.geometry import Geometry


def lost_classes(geometries: Sequence[Geometry]) -> list[Tensor]:
    """Return the classes of places, as indices, whose constants no layer with these geometries tells.

    Example:
        >>> from leakgauge.analytic.convolutions.geometry import geometry_of
        >>> from leakgauge.analytic.convolutions.lost_constants import lost_classes
        >>> lost_classes([geometry_of((4,), kernel=(3,), stride=2, padding=1)])
        [tensor([0, 2])]
    """
    places = geometries[0].places
    reads, padded = [], []
    for geometry in geometries:
        for tap in range(geometry.taps):
            seen = geometry.sees[:, tap]
            reads.append(torch.bincount(seen, minlength=places + 1)[:places] > 0)
            padded.append(bool((seen == places).any()))
    table, pads = torch.stack(reads, 1), torch.tensor(padded)
    found = []
    for taps in torch.unique(table, dim=0):
        members = (table == taps).all(1)
        inside = bool((table[:, taps] <= members[:, None]).all())
        if bool(taps.any()) and inside and not bool(pads[taps].any()):
            found.append(members.nonzero()[:, 0])
    return found


@dataclass(frozen=True, eq=False)
class Gauge:
    """Equations that set the sum of each class of places to that of given inputs.

    Args:
        classes: Classes of places.
        inputs: The inputs (B, C, N) whose sums are kept.
        size: Norm of an equation.
    """

    classes: Sequence[Tensor]
    inputs: Tensor
    size: float

    def matrix(self) -> Tensor:
        """Return the equations (classes, B N)."""
        batch, _, places = self.inputs.shape
        rows = self.inputs.new_zeros(len(self.classes), batch, places)
        for row, members in zip(rows, self.classes, strict=True):
            row[:, members] = self.size / (batch * len(members)) ** 0.5
        return rows.flatten(1)

    @property
    def right(self) -> Tensor:
        """The right side (classes, C)."""
        return self.matrix() @ self.inputs.movedim(0, 1).flatten(1).T


def anchored(inputs: Tensor, classes: Sequence[Tensor], tolerance: float) -> Tensor:
    """Return inputs (B, C, N) with constants added to each class, so that its least values are 0.

    Args:
        inputs: The inputs of a batch.
        classes: Classes of places.
        tolerance: Values this close to the least one, relative to the largest, count as equal to it.
    """
    found = inputs.clone()
    for members in classes:
        values = inputs[:, :, members]
        largest = values.abs().amax((0, 2), keepdim=True)
        near = values <= values.amin((0, 2), keepdim=True) + tolerance * largest
        zero = (values * near).sum((0, 2), keepdim=True) / near.sum((0, 2), keepdim=True)
        found[:, :, members] = values - zero
    return found
