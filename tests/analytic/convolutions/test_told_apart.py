"""Single examples of a span: only those whose zeros chance does not explain."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from leakgauge.analytic.convolutions.examples import separate

BATCH, PLACES, DEAD = 8, 300, 60


def drawn(*shape: int, seed: int) -> Tensor:
    """Return standard normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def separated(spread: float) -> tuple[Tensor, Tensor]:
    """Return the examples found, and the true ones: behind a ReLU, around a common mean, with places that are always 0.

    The span has an error of one part in a million, also where all examples are 0.
    """
    truth = (1 + drawn(1, PLACES, seed=0) + spread * drawn(BATCH, PLACES, seed=1)).relu()
    truth = torch.cat([truth, torch.zeros(BATCH, DEAD, dtype=torch.float64)], 1)
    basis = torch.linalg.qr(truth.T)[0].T
    basis = basis + 1e-6 * basis.abs().max() * drawn(*basis.shape, seed=2)
    basis = torch.linalg.qr(basis.T)[0].T
    found = separate(basis[:, None], BATCH, generator=torch.Generator().manual_seed(0))
    return found.values.flatten(1), normalize(truth, dim=1)


def test_examples_are_told_apart_despite_errors_where_all_are_zero() -> None:
    found, truth = separated(spread=0.5)
    cosines, whose = (found @ truth.T).max(1)
    assert sorted(whose.tolist()) == list(range(BATCH))
    assert float(1 - cosines.min()) < 1e-8


def test_no_mixture_of_nearly_equal_examples_passes_as_one() -> None:
    found, truth = separated(spread=0.05)
    assert all(float(1 - (truth @ each).max()) < 1e-8 for each in found)
