"""The windows of a max pool in a traced network."""

from __future__ import annotations

from torch import Tensor, fx

from leakgauge.analytic.convolutions.geometry import geometry_of
from leakgauge.analytic.convolutions.network import arguments_of


def windows_of(pool: fx.Node) -> Tensor | None:
    """Return the positions (W, Q) of the windows of a max pool, or None if it rounds its size up."""
    source, kernel, stride, padding, dilation, up = (*arguments_of(pool), *[None] * 6)[:6]
    if up:
        return None
    geometry = geometry_of(
        source.meta["val"].shape[2:],
        kernel=kernel,
        stride=stride or kernel,
        padding=padding or 0,
        dilation=dilation or 1,
    )
    return geometry.sees
