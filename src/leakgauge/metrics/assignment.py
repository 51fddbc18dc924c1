"""Which reconstruction stands for which original: a batch comes back in any order."""

from __future__ import annotations

import torch
from torch import Tensor

from leakgauge.core import DataError
from leakgauge.metrics.pairs import finite

# Far above any error of values in range, and small enough that float64 sums keep the small ones.
_COST_CEILING = 1e6


def assign(truth: Tensor, guess: Tensor) -> Tensor:
    """The assignment of least total mean squared error: int64 (B,), entry i the guess for truth i.

    truth: (B, *shape), guess: (M, *shape) with M >= B, in unit coordinates; `guess[assign(truth,
    guess)]` is aligned with the truth. Guesses with NaN or infinite entries are chosen last. Raises
    DataError for shapes that do not match and for a truth that is not finite.
    """
    aligned = truth.ndim > 0 and guess.ndim > 0 and truth.shape[1:] == guess.shape[1:]
    if not aligned or truth.numel() == 0 or len(guess) < len(truth):
        raise DataError(
            "assignment",
            expected="at least one original, and as many guesses of its shape",
            found=f"originals {tuple(truth.shape)}, guesses {tuple(guess.shape)}",
            remedy="give at least as many reconstructions as originals",
        )
    # Imported here: SciPy takes a third of a second.
    from scipy.optimize import linear_sum_assignment

    originals = finite(truth, "assignment").reshape(len(truth), -1)
    candidates = guess.detach().to("cpu", torch.float64).reshape(len(guess), -1)
    # Row by row: the expanded form |a|^2 - 2ab + |b|^2 would cancel where guesses are nearly exact.
    costs = torch.stack([(candidates - row).square().mean(1) for row in originals])
    costs = costs.nan_to_num(nan=_COST_CEILING).clamp(max=_COST_CEILING)
    _, chosen = linear_sum_assignment(costs.numpy())
    return torch.from_numpy(chosen).long()
