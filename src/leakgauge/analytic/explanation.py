"""Which label explains what an example adds to a gradient: the one under which the model would cause it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Explanation:
    """The label that explains each of N examples best.

    Args:
        labels: (N,) class indices. -1 for an example whose misfit is finite under no label.
        misfit: (N,), of the best label. Infinite where there is none.
        caused: (N, O), what the example would cause under its label. 0 where there is none.
    """

    labels: Tensor
    misfit: Tensor
    caused: Tensor


def explain(
    cause: Callable[[int], Tensor], misfit: Callable[[Tensor], Tensor], labels: Iterable[int]
) -> Explanation:
    """Return the label of least misfit for each example. Of equal misfits, the first label counts.

    Args:
        cause: from a label to what each example would cause under it (N, O).
        misfit: from what the examples would cause (N, O) to how far each is from what was observed (N,).
        labels: at least one label to try.
    """
    best: Explanation | None = None
    for label in labels:
        caused = cause(label)
        if best is None:
            nothing = caused.new_full((len(caused),), torch.inf)
            unknown = torch.full((len(caused),), -1)
            best = Explanation(unknown, nothing, torch.zeros_like(caused))
        apart = misfit(caused)
        better = apart < best.misfit
        best = Explanation(
            labels=torch.where(better, label, best.labels),
            misfit=torch.where(better, apart, best.misfit),
            caused=torch.where(better.unsqueeze(1), caused, best.caused),
        )
    if best is None:
        raise ValueError("expected at least one label to try; found none")
    return best
