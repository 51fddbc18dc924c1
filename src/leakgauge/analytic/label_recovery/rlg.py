"""RLG: the classes present in a batch. A hyperplane separates their rows of the gradient from all other rows."""

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
"""Status of `linprog` if no solution exists."""


@dataclass(frozen=True, kw_only=True)
class Rlg(LabelMethod):
    r"""Recover which classes are present, by a linear program for each class.

    Use it if presence is enough. The batch size B must be below the number of classes C and at most
    the number of features d. Targets must be 0 and 1.

    The gradient of the last weight is dW = D' H / B. Row i of D (B, C) is negative at the label of
    example i alone, and row i of H (B, d) holds its features. The singular value decomposition dW =
    U S V' has rank B, so the rows of D are combinations of the columns of U. Class c is therefore
    present only if some vector q (B,) has

    .. math::

        (U q)_c < 0 \le (U q)_j \quad \text{for every other class } j.

    The condition is necessary, not sufficient. As B nears C, rows of absent classes can be
    separated too, in exact arithmetic as well as in float32.

    References:
        Dang, Thakkar, Ramaswamy, Mathews, Chin, Beaufays. Revealing and Protecting Labels in
        Distributed Training. NeurIPS 2021, section 3. arXiv:2111.00556.

    Example:
        >>> import leakgauge as lg
        >>> from leakgauge.analytic.label_recovery import Rlg
        >>> observation = lg.examples.observation(batch_size=3, threat=lg.Server())
        >>> Rlg()(observation, seeds=lg.Seeds(0)).present.nonzero().flatten()
        tensor([0, 1, 2])
    """

    def prepare(self, observation: Observation) -> Reading | Inapplicable:
        found = head_of(observation, one_hot=True)
        if isinstance(found, Inapplicable):
            return found
        layer = found.layer
        most = min(len(layer.weight) - 1, layer.weight.shape[1])
        if layer.batch > most:
            return Inapplicable(
                f"needs B < classes and B <= features: batch {layer.batch} > {most}"
            )
        return partial(self.read, layer)

    def read(self, layer: Layer, seeds: Seeds) -> LabelRecovery:
        """Return the classes present, from the layer's gradient."""
        return LabelRecovery(method="rlg", present=separable_rows(layer.dweight, layer.batch))


def separable_rows(dweight: Tensor, rank: int) -> Tensor:
    """Return a mask (C,) of the rows of dW (C, d) that a hyperplane through 0 separates from all other rows."""
    left, values, _ = torch.linalg.svd(dweight, full_matrices=False)
    kept = left[:, : min(rank, int((values > 1e-6 * values[0]).sum()))]
    # Only the directions of rows matter. Rows are scaled to norm 1, because a faint row would be
    # taken for 0.
    rows = (kept / kept.norm(dim=1, keepdim=True).clamp_min(1e-300)).numpy()
    found = torch.zeros(len(rows), dtype=torch.bool)
    for label in range(len(rows)):
        signed = -rows.copy()
        signed[label] *= -1
        bound = [0.0] * len(rows)
        bound[label] = -1.0
        answer = linprog([0.0] * rows.shape[1], A_ub=signed, b_ub=bound, bounds=(-1e4, 1e4))
        found[label] = answer.status != INFEASIBLE
    return found
