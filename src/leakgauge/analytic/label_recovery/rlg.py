"""RLG: the classes that a batch has, as those whose row of the gradient a hyperplane sets apart.

Dang et al. 2021, "Revealing and protecting labels in distributed training" (NeurIPS), section 3: B dW = D' H,
where row i of D is negative at the label of example i alone. With dW = U S V' of rank B the rows of D are
combinations of the columns of U, so c is present only where some q has  (U q)_c < 0 <= (U q)_j  for every
other j: a linear program for each class. The condition is necessary, not sufficient: as the batch nears the
number of classes, rows of absent classes are set apart too, in exact arithmetic no less than in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from scipy.optimize import linprog
from torch import Tensor

from leakgauge.analytic.label_recovery.base import LabelMethod, LabelRecovery, Reading, head_of
from leakgauge.analytic.whitening import Layer
from leakgauge.core import Inapplicable, Observation, Seeds

INFEASIBLE = 2
"""The status of `linprog` that says that no solution exists."""


@dataclass(frozen=True, kw_only=True)
class Rlg(LabelMethod):
    """Presence alone, for batches smaller than the number of classes and of features; targets of 0 and 1."""

    def prepare(self, observation: Observation) -> Reading | Inapplicable:
        found = head_of(observation, one_hot=True)
        if isinstance(found, Inapplicable):
            return found
        layer = found.layer
        most = min(len(layer.weight) - 1, layer.weight.shape[1])
        if layer.batch > most:
            return Inapplicable(f"needs a gradient of lower rank: batch {layer.batch} > {most}")
        return partial(self.read, layer)

    def read(self, layer: Layer, seeds: Seeds) -> LabelRecovery:
        """Return the labels that the layer's gradient tells."""
        return LabelRecovery(method="rlg", present=separable(layer.dweight, layer.batch))


def separable(dweight: Tensor, rank: int) -> Tensor:
    """Which rows (C,) of dW (C, d) a hyperplane through 0 sets apart from all others."""
    left, values, _ = torch.linalg.svd(dweight, full_matrices=False)
    kept = left[:, : min(rank, int((values > 1e-6 * values[0]).sum()))]
    # Directions alone matter: rows of unit norm are told apart where faint ones would pass for 0.
    rows = (kept / kept.norm(dim=1, keepdim=True).clamp_min(1e-300)).numpy()
    found = torch.zeros(len(rows), dtype=torch.bool)
    for label in range(len(rows)):
        signed = -rows.copy()
        signed[label] *= -1
        bound = [0.0] * len(rows)
        bound[label] = -1.0
        solved = linprog([0.0] * rows.shape[1], A_ub=signed, b_ub=bound, bounds=(-1e4, 1e4))
        found[label] = solved.status != INFEASIBLE
    return found
