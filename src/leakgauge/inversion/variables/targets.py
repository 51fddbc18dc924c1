r"""Targets that are numbers, solved for when the inputs are known: regression, one logit, several labels.

The gradient of squared error and of binary cross-entropy is affine in the targets:

.. math::

    g(x, y) = g(x, 0) + \sum_k y_k \left( g(x, e_k) - g(x, 0) \right)

If the inputs :math:`x` are known in closed form, a linear least-squares problem in :math:`y`
remains.
"""

from __future__ import annotations

import torch
from torch import Tensor

from leakgauge.core import CONVERGED_WITHIN, Observation, ProbeError, Tensors
from leakgauge.federated.isolation.untouched import output_of
from leakgauge.federated.layers.targets import refused_targets, unlabeled
from leakgauge.inversion.objectives.distances import relative_residual
from leakgauge.inversion.simulation.simulator import simulator

MOST_TARGETS = 512
"""Largest number of target values. Each costs one simulated update."""
MOST_VALUES = 2**27
"""Largest size of the least-squares problem: entries of the update times target values."""


def solved_targets(observation: Observation, unit: Tensor) -> Tensor | None:
    r"""Return the targets with which these inputs explain the update, or None if there are none.

    Args:
        observation: The observation.
        unit: Inputs (B, \*shape) in unit coordinates.

    Returns:
        Targets (B,) or (B, K) as the loss takes them, or class labels (B,) if the loss takes both.
        They match the whole update to CONVERGED_WITHIN. The result is None if the loss takes no
        numbers, or if its gradient is not affine in them. It is also None if several targets match,
        or if there are more than MOST_TARGETS values.
    """
    try:
        output = output_of(observation.model, observation.domain.from_unit(unit))
    except ProbeError:
        return None
    if not isinstance(output, Tensor) or output.numel() > MOST_TARGETS:
        return None
    if output.numel() * observation.update.size > MOST_VALUES:
        return None
    shapes = [output.shape] + (
        [output.shape[:-1]] if output.ndim > 1 and output.shape[-1] == 1 else []
    )
    for shape in shapes:
        zeros = torch.zeros(shape, dtype=output.dtype, device=output.device)
        if refused_targets(observation, zeros) is not None:
            continue
        found = _solved(observation, unit, zeros)
        if found is not None:
            return found
    return None


def _solved(observation: Observation, unit: Tensor, zeros: Tensor) -> Tensor | None:
    """Return targets of the shape of `zeros`, or class labels.

    The result is None if the update is not explained, or if several targets explain it.
    """
    simulate, observed = simulator(observation, create_graph=False), observation.update.tensors

    def residual(targets: Tensor) -> float:
        return float(relative_residual(simulate(unit, targets), observed))

    base = _flat(simulate(unit, zeros))
    moves = [_flat(simulate(unit, row.view_as(zeros))) - base for row in _units(zeros)]
    missing = (_flat(observed) - base).unsqueeze(1)
    solved = torch.linalg.lstsq(torch.stack(moves, 1), missing, driver="gelsd")
    targets = solved.solution.view_as(zeros).to(zeros)
    if residual(targets) > CONVERGED_WITHIN:
        return None
    if observation.classes is not None and targets.ndim == 2 and unlabeled(observation) is None:
        # Cross-entropy has the same gradient for targets t and t + c p, with probabilities p. So the
        # rows are not unique, but the labels are.
        labels = targets.argmax(1)
        return labels if residual(labels) <= CONVERGED_WITHIN else None
    # A gradient that is not affine in the targets, as of absolute errors, allows other targets too.
    further = _flat(simulate(unit, 2 * targets)) - base
    bend = further - 2 * (_flat(simulate(unit, targets)) - base)
    affine = float(bend.norm()) <= CONVERGED_WITHIN * float(further.norm())
    return targets if affine and int(solved.rank) == zeros.numel() else None


def _units(zeros: Tensor) -> Tensor:
    """Return the unit vectors of all target values, one in each row."""
    return torch.eye(zeros.numel(), dtype=zeros.dtype, device=zeros.device)


def _flat(tensors: Tensors) -> Tensor:
    """Return all entries as one vector in the order of names, in float64 on the CPU."""
    return torch.cat([tensors[name].detach().double().cpu().flatten() for name in sorted(tensors)])


__all__ = ["solved_targets"]
