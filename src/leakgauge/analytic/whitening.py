"""The last layer's gradient in units of its own noise, and the row space that its examples span.

The gradient is `G = B [dW, db] / scale` (C, d + 1). Row i of H (B, d + 1) is h_i = [features, 1] of
example i. Then `G = D' H`, and row i of D (B, C) is `act(W h_i) - target_i` (`LossLink`). Entries
of G are rounded in proportion to their size, so small rows and columns are as precise as large
ones. Each row and column is therefore divided by its own noise before the row space is computed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from leakgauge.analytic.loss_link import LossLink

FLOOR = 0.3
"""Columns fainter than this fraction of the root mean square are scaled as if they had this size.

Other examples may excite them more.
"""
OWN = 2.0**-50
"""Relative rounding of our own arithmetic, of several float64 operations in a row."""
MOST_ROWS = 192
"""Largest number of classes whose rows enter the fit. The softmax always includes all classes."""


@dataclass(frozen=True)
class Blur:
    """The error of a shared gradient: rounding, or Gaussian noise of `sigma` on each entry.

    Args:
        shared: Relative rounding error of the shared entries (2**-24 for float32, 2**-9 for
            bfloat16).
        computed: Relative rounding error of the client's arithmetic.
        sigma: Standard deviation of Gaussian noise. 0 if there is none.
    """

    shared: float = 2.0**-24
    computed: float = 2.0**-24
    sigma: float = 0.0


@dataclass(frozen=True)
class Layer:
    """The last layer and its mean gradient over B examples.

    Args:
        weight: (C, d).
        bias: (C,), or None if there is none.
        dweight: Gradient of the weight (C, d).
        dbias: Gradient of the bias (C,), or None if it is not shared.
        batch: Batch size B.
    """

    weight: Tensor
    bias: Tensor | None
    dweight: Tensor
    dbias: Tensor | None
    batch: int

    @property
    def has_dbias(self) -> bool:
        """Whether the bias's gradient is shared. The last entry of every h is then known to be 1."""
        return self.dbias is not None


@dataclass(frozen=True)
class White:
    """The gradient G, divided by rows x columns so that each entry has noise of about 1.

    Args:
        layer: The last layer and its gradients.
        link: The loss.
        whole: G (C, D), with D = d + 1 columns if the bias's gradient is shared, else d.
        weights: (C, D), the layer's weight and bias, divided by the temperature.
        offset: (C,), the bias divided by the temperature, if its gradient is not shared, else 0.
        rows: (C,), noise of the rows.
        columns: (D,), noise of the columns.
        unit: (D,), direction whose product with h is 1, or about 1 without the bias.
        values: (K,), singular values of the divided gradient.
        right: (K, D), its right singular vectors.
        sums: (C,), sum over i of act - target. Exact if the bias's gradient is shared, else an
            estimate.
        noise: The error of the gradient.
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
        """The largest singular value that noise alone is expected to have."""
        return math.sqrt(len(self.rows)) + math.sqrt(len(self.columns))

    @property
    def rank(self) -> int:
        """Number of directions above the noise, at most B."""
        return max(1, int((self.values[: self.layer.batch] > self.edge).sum()))


@dataclass(frozen=True)
class Basis:
    """The K strongest directions: h = (q right) columns, and the equations D' Q = M.

    Args:
        white: The divided gradient.
        right: (K, D), the directions.
        product: M (R, K), for the R classes that enter the fit, divided by the rows' noise.
        logits: (C, K), map from q to the outputs, without the offset.
        unit: (K,), direction with q . unit = 1. Exact if the bias's gradient is shared.
        center: (K,), center of a broad prior of q.
        width: Width of that prior.
        rows: (R,), the classes that enter the fit.
        noise: (R,), their noise.
        values: (K,), singular values.
    """

    white: White
    right: Tensor
    product: Tensor
    logits: Tensor
    unit: Tensor
    center: Tensor
    width: float
    rows: Tensor
    noise: Tensor
    values: Tensor

    @property
    def rank(self) -> int:
        """Number K of directions."""
        return len(self.right)

    def features(self, q: Tensor) -> Tensor:
        """Return features (..., d) of coordinates q (..., K)."""
        h = (q @ self.right) * self.white.columns
        return h[..., :-1] if self.white.layer.has_dbias else h

    @property
    def equations(self) -> int:
        """Number of independent equations. A softmax layer's rows of the gradient sum to 0, which removes one row."""
        whole = len(self.rows) == len(self.white.rows)
        lost = 1 if whole and self.white.link.activation == "softmax" else 0
        return (len(self.rows) - lost) * self.rank

    def across(self, q: Tensor) -> Tensor:
        """Return the part of q (..., K) that does not change its product with `unit`."""
        return q - (q @ self.unit).unsqueeze(-1) * self.unit / self.unit.square().sum()

    def on_constraint(self, q: Tensor) -> Tensor:
        """Return the nearest coordinates with q . unit = 1."""
        return self.across(q) + self.unit / self.unit.square().sum()


def whiten(layer: Layer, link: LossLink, counts: Tensor | None, noise: Blur) -> White:
    """Return the layer's gradient in units of its noise.

    Args:
        layer: The last layer and its gradients.
        link: The loss.
        counts: (C,), labels in the batch, or None if they are not known.
        noise: The error of the gradient.
    """
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
        size, unit, sums = estimate_sums(layer, link, whole, counts)
    columns = torch.ones_like(size)
    if noise.sigma > 0:
        rows = torch.full_like(sums, layer.batch * noise.sigma / link.scale)
    else:
        columns = size.clamp_min(FLOOR * float(size.square().mean().sqrt()))
        strength = (whole / columns).square().mean(1).sqrt()
        strength = strength.clamp_min(1e-7 * float(strength.max()))
        # If act is near 1 at the example's label, act - target loses all digits below the precision
        # of 1.
        present = (sums < 0).double() if counts is None else counts.double().sqrt()
        rows = 4 * max(noise.shared, OWN) * strength + present * max(noise.computed, OWN)
    white = whole / rows.unsqueeze(1) / columns
    _, values, right = torch.linalg.svd(white, full_matrices=False)
    return White(
        layer, link, whole, weights, offset, rows, columns, unit, values, right, sums, noise
    )


def estimate_sums(
    layer: Layer, link: LossLink, whole: Tensor, counts: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return column sizes (D,), unit (D,) and sums (C,) if the bias has no gradient.

    Features of similar norm are assumed. The scale makes the mean activations of the classes as
    equal as possible.
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
    """Return the `rank` strongest directions of the row space."""
    right = white.right[:rank]
    product = (white.whole / white.rows.unsqueeze(1) / white.columns) @ right.T
    unit = right @ (white.unit * white.columns)
    rows = chosen_rows(white)
    # Features are about as large as their columns. If they are not negative, they also have the
    # sign of the columns.
    center = right.sum(1)
    found = Basis(
        white=white,
        right=right,
        product=product[rows],
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
    """Return the classes that enter the fit.

    These are all classes, up to MOST_ROWS. Of more, they are the likeliest classes of the batch and
    the classes with the largest gradient.
    """
    classes = len(white.rows)
    if classes <= MOST_ROWS:
        return torch.arange(classes)
    strength = (white.whole / white.columns).norm(dim=1)
    strength[white.sums.argsort()[: 2 * white.layer.batch]] = torch.inf
    chosen: Tensor = strength.argsort(descending=True)[:MOST_ROWS].sort().values
    return chosen
