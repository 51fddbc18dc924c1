"""Targets that are numbers, solved for once the inputs are known: regression, one logit, several labels.

The gradient of squared error and of binary cross-entropy is affine in the targets:

    g(x, y) = g(x, 0) + sum_k y_k (g(x, e_k) - g(x, 0))

Inputs x that were read in closed form leave a linear least-squares problem in y.
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
"""Largest number of target values that are solved for: each costs one simulated update."""
MOST_VALUES = 2**27
"""Largest number of values of the least-squares problem: entries of the update times target values."""


def solved_targets(observation: Observation, unit: Tensor) -> Tensor | None:
    """Return the targets with which inputs explain the update, or None if none do.

    Args:
        unit: inputs (B, *shape) in unit coordinates.

    Returns:
        Targets (B,) or (B, K) as the loss takes them, with which the whole update is matched to CONVERGED_WITHIN, or
        class labels (B,) if the loss takes both. None if the loss takes no numbers, if its gradient is not affine in
        them, if several targets would do, or if they are too many.
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
    """Targets of the shape of `zeros`, or class labels, or None if the update is not explained or leaves a choice."""
    simulate, seen = simulator(observation, create_graph=False), observation.update.tensors

    def residual(targets: Tensor) -> float:
        return float(relative_residual(simulate(unit, targets), seen))

    base = _flat(simulate(unit, zeros))
    moves = [_flat(simulate(unit, row.view_as(zeros))) - base for row in _units(zeros)]
    missing = (_flat(seen) - base).unsqueeze(1)
    solved = torch.linalg.lstsq(torch.stack(moves, 1), missing, driver="gelsd")
    targets = solved.solution.view_as(zeros).to(zeros)
    if residual(targets) > CONVERGED_WITHIN:
        return None
    if observation.classes is not None and targets.ndim == 2 and unlabeled(observation) is None:
        # Cross-entropy is the same for t and t + c p, with answers p: rows are not unique, labels are.
        labels = targets.argmax(1)
        return labels if residual(labels) <= CONVERGED_WITHIN else None
    # A gradient that is not affine, such as that of absolute errors, would be explained by other targets too.
    further = _flat(simulate(unit, 2 * targets)) - base
    bend = further - 2 * (_flat(simulate(unit, targets)) - base)
    affine = float(bend.norm()) <= CONVERGED_WITHIN * float(further.norm())
    return targets if affine and int(solved.rank) == zeros.numel() else None


def _units(zeros: Tensor) -> Tensor:
    """The unit vectors of all target values, one a row."""
    return torch.eye(zeros.numel(), dtype=zeros.dtype, device=zeros.device)


def _flat(tensors: Tensors) -> Tensor:
    """All entries as one vector, in float64 on the CPU, in the order of names."""
    return torch.cat([tensors[name].detach().double().cpu().flatten() for name in sorted(tensors)])


__all__ = ["solved_targets"]
