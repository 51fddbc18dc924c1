"""Group consistency: the restarts of one search, held to what they have in common.

    R(x_s) = || x_s - E(x_1 ... x_S) ||^2 / n     n values of the batch, in unit coordinates
    lazy:        E = mean_s x_s
    registered:  E = mean_s F_s(x_s),  F_s the dense motion that carries x_s onto mean_s x_s

Yin et al.: See through Gradients, CVPR 2021, section 3, the norm squared. Which example of one restart is
which of another, labels tell but for equal ones; those are assigned at least squared distance first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from leakgauge.inversion.descents.descent import Evaluation
from leakgauge.inversion.evaluation.problem import Variables

Mean = Callable[[Tensor], Tensor]
"""Corresponding examples (S, B, *shape) of S restarts to what they have in common (B, *shape)."""

_APART = 1e6
"""Above any squared distance in the box: examples of unlike labels are never one."""


@dataclass(frozen=True, eq=False)
class Pull:
    """What holds one restart to the consensus `aim` (B, *shape), its own order of examples."""

    decode: Callable[[Tensor], Tensor]
    aim: Tensor
    weight: float

    def added(self, seen: Evaluation, variables: Variables) -> Evaluation:
        """The evaluation with weight R and its slope added; no step that was traced need know of it."""
        leaf = variables[0].detach().requires_grad_()
        value = self.weight * (self.decode(leaf) - self.aim).square().mean()
        (slope,) = torch.autograd.grad(value, leaf)
        first, *others = seen.gradient
        return Evaluation(seen.value + float(value.detach()), (first + slope, *others))


def lazy(images: Tensor) -> Tensor:
    """The mean over restarts: (S, B, *shape) to (B, *shape)."""
    return images.mean(0)


def registered(images: Tensor) -> Tensor:
    """The mean over restarts, each image carried onto their plain mean first: (S, B, C, H, W) to (B, C, H, W)."""
    middle = images.mean(0)
    carried = [
        torch.stack([register_onto(image, aim) for image, aim in zip(restart, middle, strict=True)])
        for restart in images
    ]
    return torch.stack(carried).mean(0)


def register_onto(image: Tensor, aim: Tensor) -> Tensor:
    """`image` (C, H, W) moved to where its brightness agrees with that of `aim`, by dense optical flow.

    Iterative Lucas-Kanade (Le Besnerais, Champagnat: Dense Optical Flow by Iterative Local Window Registration,
    ICIP 2005), as scikit-image has it. On shifted and bent images of 32 px, noisy or not, it does as well as
    TV-L1 or better, in half the time; one shift for the whole image does no better than none.
    """
    # Imported here: they take a third of a second.
    from scipy.ndimage import map_coordinates
    from skimage.registration import optical_flow_ilk

    moving, fixed = (t.detach().to("cpu", torch.float32).numpy() for t in (image, aim))
    flow = optical_flow_ilk(fixed.mean(0), moving.mean(0))  # type: ignore[no-untyped-call]
    places = np.indices(flow.shape[1:]) + flow
    found = [map_coordinates(channel, places, order=1, mode="nearest") for channel in moving]
    return torch.from_numpy(np.stack(found)).to(image)


def match_examples(units: Sequence[Tensor], labels: Sequence[Tensor], first: int) -> list[Tensor]:
    """For each restart the indices (B,) of its examples that stand for those of restart `first`.

    units (B, *shape) and labels (B,) class indices, one a restart, the same labels in any order.
    """
    # Imported here: SciPy takes a third of a second.
    from scipy.optimize import linear_sum_assignment

    reference = units[first].detach().double().flatten(1)
    orders = []
    for unit, label in zip(units, labels, strict=True):
        apart = torch.cdist(reference, unit.detach().double().flatten(1)).square()
        unlike = labels[first][:, None] != label[None, :]
        _, order = linear_sum_assignment((apart + _APART * unlike).cpu().numpy())
        orders.append(torch.from_numpy(order).to(unit.device))
    return orders


@dataclass(frozen=True, kw_only=True)
class Consensus:
    """Restarts are held to `mean` from the share `start` of a descent on; it is taken anew every `every` evaluations.

    For first-order descents: the objective changes under way.
    """

    weight: float = 0.01
    mean: Mean = registered
    start: float = 0.25
    every: int = 100

    def meetings(self, evaluations: int) -> range:
        """After how many evaluations of each restart the consensus is taken."""
        return range(max(1, math.ceil(self.start * evaluations)), evaluations, self.every)

    def aims(self, units: Sequence[Tensor], labels: Sequence[Tensor], first: int) -> list[Tensor]:
        """The consensus in the order of each restart; restart `first` is that which others are matched to."""
        orders = match_examples(units, labels, first)
        alike = torch.stack([unit[order] for unit, order in zip(units, orders, strict=True)])
        middle = self.mean(alike.detach())
        return [middle[order.argsort()] for order in orders]
