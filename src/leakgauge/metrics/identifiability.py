"""Image Identifiability Precision: whether a reconstruction points at its original."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from leakgauge.core import DataError
from leakgauge.metrics.pairs import are_finite, as_finite, as_pairs

Embedding = Callable[[Tensor], Tensor]
"""A function from inputs `(N, *shape)` to features (N, D)."""


def identified(
    truth: Tensor, guess: Tensor, decoys: Tensor, *, embed: Embedding | None = None
) -> Tensor:
    r"""Compute whether each reconstruction is closest to its own original: 1 if it is, else 0.

    The reconstruction is compared with all B originals and with N decoys. The mean over examples is
    the Image Identifiability Precision (IIP). Higher values mean that more has leaked. A random
    image gets 1 with probability 1 / (B + N), so values depend on the number of decoys.

    .. math::

        d(\hat x_i, x_i) < d(\hat x_i, z) \quad \text{for every other original or decoy } z

    Here :math:`\hat x_i` is the reconstruction of the original :math:`x_i`. The distance :math:`d`
    is the squared error, or the angle between features if `embed` is given. Exact copies of the
    original count as the original.

    Args:
        truth: Originals `(B, *shape)` in unit coordinates. They must be finite.
        guess: Reconstructions of the same shape.
        decoys: Other examples `(N, *shape)` of the same data, at least one. They must be finite.
        embed: A function from inputs `(N, *shape)` to features (N, D). The paper uses those of a
            ResNet-50, averaged over places.

    Returns:
        The values (B,). A tie, or a reconstruction that is not finite, gets 0.

    Raises:
        DataError: The shapes differ, there are no decoys, or an original or decoy is not finite.

    References:
        Yin, Mallya, Vahdat, Alvarez, Kautz, Molchanov. See through Gradients: Image Batch Recovery
        via GradInversion. CVPR 2021, figure 8. arXiv:2104.07586.

    Example:
        >>> import leakgauge as lg
        >>> images = lg.examples.batch(8).inputs
        >>> lg.metrics.identified(images[:2], images[:2] * 0.9, images[2:])
        tensor([1., 1.], dtype=torch.float64)
    """
    truth, guess = as_pairs(truth, guess, "identified")
    if len(decoys) == 0 or decoys.shape[1:] != truth.shape[1:]:
        raise DataError(
            "metric 'identified'",
            expected=f"at least one decoy of shape {tuple(truth.shape[1:])}",
            found=f"{tuple(decoys.shape)}",
            remedy="give other examples of the same data set",
        )
    pool, whole = torch.cat([truth, as_finite(decoys, "identified")]), are_finite(guess)
    asked = torch.where(whole.reshape(-1, *(1 for _ in truth.shape[1:])), guess, 0.0)
    apart = _by_error(asked, pool) if embed is None else _by_angle(embed(asked), embed(pool))
    own = apart.diagonal().clone()
    for i, original in enumerate(truth):
        apart[i, (pool == original).flatten(1).all(1)] = torch.inf
    return (whole & (own < apart.min(1).values)).double()


def _by_error(asked: Tensor, pool: Tensor) -> Tensor:
    """Return the mean squared errors (B, N)."""
    return torch.stack([(pool - one).square().flatten(1).mean(1) for one in asked])


def _by_angle(asked: Tensor, pool: Tensor) -> Tensor:
    """Return one minus the cosines of features (B, N)."""
    return 1 - functional.normalize(asked.double()) @ functional.normalize(pool.double()).T
