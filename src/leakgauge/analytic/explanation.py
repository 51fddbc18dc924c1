"""The label that explains one example's part of a gradient, because the model would cause that part under it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Explanation:
    """The label that explains each of N examples best.

    Args:
        labels: (N,), class indices. -1 for an example whose misfit is not finite under any label.
        misfit: (N,), misfit of the best label. Infinite if no label has a finite misfit.
        caused: (N, O), the part of the gradient that the example would cause under its label. 0 if
            it has none.
    """

    labels: Tensor
    misfit: Tensor
    caused: Tensor


def explain(
    cause: Callable[[int], Tensor], misfit: Callable[[Tensor], Tensor], labels: Iterable[int]
) -> Explanation:
    """Return the label of least misfit for each example.

    If misfits are equal, the first label wins.

    Args:
        cause: Function from a label to the part of the gradient (N, O) that each example would
            cause under it.
        misfit: Function from these parts (N, O) to their distances (N,) from the observed gradient.
        labels: Labels to try, at least one.

    Raises:
        ValueError: `labels` is empty.

    Example:
        >>> import torch
        >>> from leakgauge.analytic.explanation import explain
        >>> parts = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])  # of one example, under two labels
        >>> observed = torch.tensor([[0.0, 0.9]])
        >>> explain(lambda y: parts[y], lambda part: (part - observed).norm(dim=1), range(2)).labels
        tensor([1])
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
