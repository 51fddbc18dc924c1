"""Independent components: the rotation of white signals under which they differ most from Gaussian noise.

Signals are rows.

References:
    Hyvärinen, Oja. Independent Component Analysis: Algorithms and Applications. Neural Networks 13,
    2000 (symmetric fixed point).

    Kariyappa, Guo, Maeng, Xiong, Suh, Qureshi, Lee. Cocktail Party Attack: Breaking
    Aggregation-Based Privacy in Federated Learning Using Independent Component Analysis. ICML 2023,
    section 4. arXiv:2209.05578 (gradient descent with priors).
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
"""Number of steps of a descent between two reports of progress. They take about 0.1 seconds."""

Prior = Callable[[Tensor], Tensor]
"""Function from unmixed white signals (n, N) to a penalty, a scalar."""


def whitening(signals: Tensor) -> Tensor:
    """Return the symmetric matrix (n, n) that makes signals (n, N) uncorrelated, with mean square 1."""
    energy, axes = torch.linalg.eigh(signals @ signals.T / signals.shape[1])
    scale = energy.clamp_min(1e-14 * float(energy[-1])).rsqrt()
    matrix: Tensor = (axes * scale) @ axes.T
    return matrix


def rotation(count: int, generator: torch.Generator) -> Tensor:
    """Return a random orthogonal matrix (n, n)."""
    drawn = torch.randn(count, count, generator=generator, dtype=torch.float64)
    orthogonal: Tensor = torch.linalg.qr(drawn)[0]
    return orthogonal


def fixed_point(white: Tensor, generator: torch.Generator, *, iterations: int = 200) -> Tensor:
    """Return the unmixing rotation (n, n) of white signals (n, N) by the contrast -exp(-u^2 / 2), all rows at once.

    It suits sparse signals such as the differences of neighboring pixels. It computes in float32,
    since its result is only a start for later steps.
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
    r"""Unmixing of white signals x (n, N) by a gradient descent with priors, as in the Cocktail Party Attack.

    Adam minimizes over unit rows v_i of V, with u = V x and u_i its rows:

    .. math::

        -\mathrm{mean}_i (\mathrm{E} \log \cosh u_i)^2 + \mathrm{prior}(u)
        + \mathrm{independence} \cdot \mathrm{mean}_{i \ne j} (e^{\mathrm{sharpness} |v_i \cdot v_j|} - 1)

    Args:
        steps: Number of steps of Adam.
        lr: Step size of Adam.
        independence: Weight of the penalty on rows that are not orthogonal.
        sharpness: Exponent of this penalty.
        prior: Penalty of the unmixed signals.
        tell: Receives, from time to time, the fraction of the steps that is done.
    """

    steps: int
    lr: float
    independence: float
    sharpness: float
    prior: Prior
    tell: Callable[[float], None] | None = None

    def __call__(self, white: Tensor, generator: torch.Generator) -> Tensor:
        """Return the unmixing matrix (n, n), with unit rows, of white signals (n, N)."""
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
        """Return the objective at unit rows (n, n)."""
        unmixed = rows @ white
        # This form of log cosh u, |u| + log(1 + exp(-2 |u|)) - log 2, does not overflow.
        size = unmixed.abs()
        negentropy = (size + softplus(-2 * size) - math.log(2)).mean(1).square().mean()
        cosines = (rows @ rows.T).abs().fill_diagonal_(0)
        pairs = max(1, len(rows) * (len(rows) - 1))
        mutual = torch.expm1(self.sharpness * cosines).sum() / pairs
        return self.prior(unmixed) - negentropy + self.independence * mutual
