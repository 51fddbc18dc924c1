"""Independent components: the rotation of white signals under which they are least like Gaussian noise.

Hyvarinen, Oja: Neural Networks 13, 2000 (fixed point, symmetric); Kariyappa et al.: ICML 2023 (gradient
descent with priors, the Cocktail Party Attack). Signals are rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize, softplus

SETTLED = 1e-5
"""Largest change of a row's direction, as 1 - cosine, at which the fixed point is reached."""
TELLS = 100
"""Steps of a descent between two moments: about 0.1 seconds."""

Prior = Callable[[Tensor], Tensor]
"""A penalty, a scalar, of unmixed white signals (n, N)."""


def whitening(signals: Tensor) -> Tensor:
    """The symmetric matrix (n, n) by which signals (n, N) become uncorrelated, of mean square 1."""
    energy, axes = torch.linalg.eigh(signals @ signals.T / signals.shape[1])
    scale = energy.clamp_min(1e-14 * float(energy[-1])).rsqrt()
    matrix: Tensor = (axes * scale) @ axes.T
    return matrix


def rotation(count: int, generator: torch.Generator) -> Tensor:
    """A random orthogonal matrix (n, n)."""
    drawn = torch.randn(count, count, generator=generator, dtype=torch.float64)
    orthogonal: Tensor = torch.linalg.qr(drawn)[0]
    return orthogonal


def fixed_point(white: Tensor, generator: torch.Generator, *, iterations: int = 200) -> Tensor:
    """The unmixing rotation (n, n) of white signals (n, N) by the contrast -exp(-u^2 / 2), all rows at once.

    For sparse signals, as the differences of neighboring pixels are. In float32: its fixed point is a
    start for what follows, not a result to the last digit.
    """
    white = white.float()
    rows = rotation(len(white), generator).float()
    for _ in range(iterations):
        unmixed = rows @ white
        bell = torch.exp(-unmixed.square() / 2)
        slope = ((1 - unmixed.square()) * bell).mean(1, keepdim=True)
        stepped = (unmixed * bell) @ white.T / white.shape[1] - slope * rows
        left, _, right = torch.linalg.svd(stepped.double())
        turned = (left @ right).float()
        change = 1 - float((turned * rows).sum(1).abs().min())
        rows = turned
        if change < SETTLED:
            break
    return rows.double()


@dataclass(frozen=True, kw_only=True)
class NegentropyDescent:
    """Kariyappa et al., section 4: unit rows V that minimize, by Adam,

    - mean_i (E log cosh u_i)^2  +  prior(u)  +  independence mean_{i != j} (exp(sharpness |v_i . v_j|) - 1),  u = V x

    tell: is told the fraction of the steps that is done, from time to time.
    """

    steps: int
    lr: float
    independence: float
    sharpness: float
    prior: Prior
    tell: Callable[[float], None] | None = None

    def __call__(self, white: Tensor, generator: torch.Generator) -> Tensor:
        """The unmixing matrix (n, n) of white signals (n, N), of unit rows."""
        white = white.float()
        rows = rotation(len(white), generator).float().requires_grad_()
        optimizer = torch.optim.Adam([rows], lr=self.lr)
        for step in range(self.steps):
            if self.tell is not None and step % TELLS == 0:
                self.tell(step / self.steps)
            (rows.grad,) = torch.autograd.grad(self.value(normalize(rows), white), [rows])
            optimizer.step()
        return normalize(rows.detach().double())

    def value(self, rows: Tensor, white: Tensor) -> Tensor:
        """What is minimized, of unit rows (n, n)."""
        unmixed = rows @ white
        # log cosh u = |u| + log(1 + exp(-2 |u|)) - log 2, which does not overflow.
        size = unmixed.abs()
        negentropy = (size + softplus(-2 * size) - math.log(2)).mean(1).square().mean()
        alike = (rows @ rows.T).abs().fill_diagonal_(0)
        pairs = max(1, len(rows) * (len(rows) - 1))
        mutual = torch.expm1(self.sharpness * alike).sum() / pairs
        return self.prior(unmixed) - negentropy + self.independence * mutual
