"""The last layer's gradient in units of its own noise, and the row space that its examples span.

With G = B [dW, db] / scale (C, d + 1) and rows h = [features, 1]: G = D' H, where row i of D is
act(W h_i) - target_i. Entries of G are rounded in proportion to their size, so rows and columns of very
different size are equally precise: each is divided by its own noise before the row space is taken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from leakgauge.analytic.loss_link import LossLink

FLOOR = 0.3
"""Columns fainter than this share of the rms column are whitened like it: other examples may excite them."""
OWN = 2.0**-50
"""Rounding of our own arithmetic, several float64 operations deep."""
MOST_ROWS = 192
"""Classes whose rows enter the fit; the softmax still sees all."""


@dataclass(frozen=True)
class Blur:
    """What blurs a shared gradient: Gaussian noise of `sigma` on each entry, or rounding.

    shared: relative rounding error of the entries shared (2**-24 for float32, 2**-9 for bfloat16);
    computed: the precision in which the client computed.
    """

    shared: float = 2.0**-24
    computed: float = 2.0**-24
    sigma: float = 0.0


@dataclass(frozen=True)
class Layer:
    """The last layer and its mean gradient over B examples: weight, dweight (C, d), bias, dbias (C,) or None."""

    weight: Tensor
    bias: Tensor | None
    dweight: Tensor
    dbias: Tensor | None
    batch: int

    @property
    def told(self) -> bool:
        """Whether the bias's gradient is shared: the last entry of every h is then known to be 1."""
        return self.dbias is not None


@dataclass(frozen=True)
class White:
    """G / (rows x columns) with noise of about 1 an entry; values (K,) and right (K, D) of its SVD.

    sums (C,): sum_i act - target, exact where the bias's gradient is shared, else an estimate; unit (D,)
    is the direction by which h has product 1 (about 1 without the bias).
    """

    layer: Layer
    link: LossLink
    whole: Tensor
    weights: Tensor
    offset: Tensor
    rows: Tensor
    columns: Tensor
    unit: Tensor
    values: Tensor
    right: Tensor
    sums: Tensor
    noise: Blur

    @property
    def edge(self) -> float:
        """The largest singular value that noise alone would have."""
        return math.sqrt(len(self.rows)) + math.sqrt(len(self.columns))

    @property
    def rank(self) -> int:
        """Directions that stand out of the noise, at most B."""
        return max(1, int((self.values[: self.layer.batch] > self.edge).sum()))


@dataclass(frozen=True)
class Basis:
    """The K strongest directions: h = (q right) columns, and the equations D' Q = told, by row noise.

    outputs z = q logits' + offset; constraint: q . unit = 1 (where exact); center (K,) and width are
    those of a broad prior of q; rows index the R classes that enter the fit.
    """

    white: White
    right: Tensor
    told: Tensor
    logits: Tensor
    unit: Tensor
    center: Tensor
    width: float
    rows: Tensor
    noise: Tensor
    values: Tensor

    @property
    def rank(self) -> int:
        return len(self.right)

    def features(self, q: Tensor) -> Tensor:
        """Features (..., d) of coordinates q (..., K)."""
        h = (q @ self.right) * self.white.columns
        return h[..., :-1] if self.white.layer.told else h

    @property
    def equations(self) -> int:
        """How many independent equations: the rows of a softmax layer's gradient sum to 0."""
        whole = len(self.rows) == len(self.white.rows)
        lost = 1 if whole and self.white.link.activation == "softmax" else 0
        return (len(self.rows) - lost) * self.rank

    def across(self, q: Tensor) -> Tensor:
        """The part of q (..., K) that leaves its product with unit as it is."""
        return q - (q @ self.unit).unsqueeze(-1) * self.unit / self.unit.square().sum()

    def on_constraint(self, q: Tensor) -> Tensor:
        """The nearest coordinates with q . unit = 1."""
        return self.across(q) + self.unit / self.unit.square().sum()


def whiten(layer: Layer, link: LossLink, counts: Tensor | None, noise: Blur) -> White:
    """The layer's gradient in units of its noise. counts (C,): labels in the batch, where known."""
    whole = layer.batch * layer.dweight / link.scale
    weights = layer.weight / link.temperature
    offset = torch.zeros(len(whole), dtype=torch.float64)
    if layer.bias is not None and layer.dbias is None:
        offset = layer.bias / link.temperature
    if layer.dbias is not None:
        whole = torch.cat([whole, layer.batch * layer.dbias.unsqueeze(1) / link.scale], 1)
        bias = torch.zeros_like(layer.dbias) if layer.bias is None else layer.bias
        weights = torch.cat([weights, bias.unsqueeze(1) / link.temperature], 1)
        sums = whole[:, -1]
        size = whole.norm(dim=0) / sums.norm().clamp_min(1e-300)
        unit = torch.zeros_like(size)
        unit[-1] = 1
    else:
        size, unit, sums = guessed_sums(layer, link, whole, counts)
    columns = torch.ones_like(size)
    if noise.sigma > 0:
        rows = torch.full_like(sums, layer.batch * noise.sigma / link.scale)
    else:
        columns = size.clamp_min(FLOOR * float(size.square().mean().sqrt()))
        strength = (whole / columns).square().mean(1).sqrt()
        strength = strength.clamp_min(1e-7 * float(strength.max()))
        # act - target loses all below the precision of 1, where the label's own act is near 1.
        present = (sums < 0).double() if counts is None else counts.double().sqrt()
        rows = 4 * max(noise.shared, OWN) * strength + present * max(noise.computed, OWN)
    white = whole / rows.unsqueeze(1) / columns
    _, values, right = torch.linalg.svd(white, full_matrices=False)
    return White(
        layer, link, whole, weights, offset, rows, columns, unit, values, right, sums, noise
    )


def guessed_sums(
    layer: Layer, link: LossLink, whole: Tensor, counts: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Without the bias: column sizes (D,), unit (D,) and sums (C,), where features of like norm are assumed.

    The scale is the one that makes the classes' mean activations most alike.
    """
    size = whole.norm(dim=0)
    size = size.clamp_min(FLOOR * float(size.square().mean().sqrt()))
    raw = (whole / size).mean(1)
    present = (raw < 0).double() if counts is None else counts.double()
    target = (present / present.sum().clamp_min(1) * layer.batch) @ link.targets
    even = target.mean() - target
    scale = float((raw @ even) / raw.square().sum().clamp_min(1e-300))
    scale = abs(scale) or 1.0
    return size / scale, scale / size / len(size), raw * scale


def basis(white: White, rank: int) -> Basis:
    """The `rank` strongest directions of the row space."""
    right = white.right[:rank]
    told = (white.whole / white.rows.unsqueeze(1) / white.columns) @ right.T
    unit = right @ (white.unit * white.columns)
    rows = chosen_rows(white)
    # Features are about as large as their columns; non-negative ones also have their sign.
    center = right.sum(1)
    found = Basis(
        white=white,
        right=right,
        told=told[rows],
        logits=(white.weights * white.columns) @ right.T,
        unit=unit,
        center=center,
        width=2 * max(1.0, float(center.norm())),
        rows=rows,
        noise=white.rows[rows],
        values=white.values[:rank],
    )
    return replace(found, center=found.on_constraint(center))


def chosen_rows(white: White) -> Tensor:
    """The classes that enter the fit: all, or those that the batch most likely holds and the clearest others."""
    classes = len(white.rows)
    if classes <= MOST_ROWS:
        return torch.arange(classes)
    strength = (white.whole / white.columns).norm(dim=1)
    strength[white.sums.argsort()[: 2 * white.layer.batch]] = torch.inf
    chosen: Tensor = strength.argsort(descending=True)[:MOST_ROWS].sort().values
    return chosen
