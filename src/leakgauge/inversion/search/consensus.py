"""Group consistency: a penalty that keeps the restarts of one search near their consensus."""

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
"""A function from corresponding examples (S, B, *shape) of S restarts to their consensus (B, *shape)."""

_APART = 1e6
"""More than any squared distance in the box, so that examples of different labels never correspond."""


@dataclass(frozen=True, eq=False)
class Pull:
    r"""The penalty that keeps one restart near the consensus.

    Args:
        decode: Map from variables to examples in unit coordinates.
        aim: The consensus (B, \*shape), with the examples in the restart's order.
        weight: Weight of the penalty.
    """

    decode: Callable[[Tensor], Tensor]
    aim: Tensor
    weight: float

    def add_to(self, evaluation: Evaluation, variables: Variables) -> Evaluation:
        """Return the evaluation with the penalty and its slope added. So no traced step depends on the penalty."""
        leaf = variables[0].detach().requires_grad_()
        value = self.weight * (self.decode(leaf) - self.aim).square().mean()
        (slope,) = torch.autograd.grad(value, leaf)
        first, *others = evaluation.gradient
        return Evaluation(evaluation.value + float(value.detach()), (first + slope, *others))


def lazy(images: Tensor) -> Tensor:
    r"""Return the mean over restarts: (S, B, \*shape) to (B, \*shape)."""
    return images.mean(0)


def registered(images: Tensor) -> Tensor:
    """Return the mean over restarts after registration: (S, B, C, H, W) to (B, C, H, W).

    Each image is first moved onto the plain mean of the restarts.
    """
    middle = images.mean(0)
    carried = [
        torch.stack([register_onto(image, aim) for image, aim in zip(restart, middle, strict=True)])
        for restart in images
    ]
    return torch.stack(carried).mean(0)


def register_onto(image: Tensor, aim: Tensor) -> Tensor:
    """Return `image` (C, H, W), moved by dense optical flow onto `aim`.

    Afterwards their brightness agrees. The method is iterative Lucas-Kanade (Le Besnerais,
    Champagnat: Dense Optical Flow by Iterative Local Window Registration, ICIP 2005), from
    scikit-image. On shifted and bent images of 32 px, noisy or not, it is as good as TV-L1 or
    better, in half the time. One shift for the whole image is no better than no registration.
    """
    # Imported here, since importing SciPy and scikit-image takes a third of a second.
    from scipy.ndimage import map_coordinates
    from skimage.registration import optical_flow_ilk

    moving, fixed = (t.detach().to("cpu", torch.float32).numpy() for t in (image, aim))
    flow = optical_flow_ilk(fixed.mean(0), moving.mean(0))  # type: ignore[no-untyped-call]
    places = np.indices(flow.shape[1:]) + flow
    found = [map_coordinates(channel, places, order=1, mode="nearest") for channel in moving]
    return torch.from_numpy(np.stack(found)).to(image)


def match_examples(units: Sequence[Tensor], labels: Sequence[Tensor], first: int) -> list[Tensor]:
    r"""Return which examples of each restart correspond to those of restart `first`.

    The result is one tensor of indices (B,) for each restart. Examples with equal labels are
    assigned at the least squared distance.

    Args:
        units: Examples (B, \*shape) of each restart.
        labels: Class indices (B,) of each restart: the same labels in any order.
        first: Index of the restart whose order counts.
    """
    # Imported here, since SciPy takes a third of a second.
    from scipy.optimize import linear_sum_assignment

    reference = units[first].detach().double().flatten(1)
    orders = []
    for unit, label in zip(units, labels, strict=True):
        distances = torch.cdist(reference, unit.detach().double().flatten(1)).square()
        different = labels[first][:, None] != label[None, :]
        _, order = linear_sum_assignment((distances + _APART * different).cpu().numpy())
        orders.append(torch.from_numpy(order).to(unit.device))
    return orders


@dataclass(frozen=True, kw_only=True)
class Consensus:
    r"""Group consistency: a penalty that pulls the restarts of a search toward their consensus.

    .. math::

        R(x_s) = \frac{1}{n} \left\| x_s - E(x_1, \dots, x_S) \right\|^2

    Here :math:`x_s` is the batch of restart :math:`s` in unit coordinates, and :math:`n` the number
    of its values. The consensus :math:`E` is computed by `mean`. It is the plain mean of the
    restarts, or their mean after each image was moved onto the plain mean by optical flow. Labels
    tell which example of one restart corresponds to which of another. Examples with equal labels
    are assigned at the least squared distance first.

    Use it with several restarts and a first-order descent, since the objective changes during the
    descent. The paper's norm is not squared.

    Args:
        weight: Weight of the penalty, at least 0. The default is the paper's.
        mean: Function from corresponding examples (S, B, \*shape) of the restarts to their
            consensus (B, \*shape). The default registers images.
        start: Fraction of a descent, from 0 to 1, at which the first consensus is computed. The
            default is the paper's.
        every: Number of evaluations of each restart between one consensus and the next, at least 1.
            The default is the paper's.

    References:
        Yin, Mallya, Vahdat, Alvarez, Kautz, Molchanov. See through Gradients: Image Batch Recovery
        via GradInversion. CVPR 2021, section 3. arXiv:2104.07586.

    Example:
        >>> from leakgauge.inversion import Consensus
        >>> list(Consensus(start=0.25, every=100).meetings(400))
        [100, 200, 300]
    """

    weight: float = 0.01
    mean: Mean = registered
    start: float = 0.25
    every: int = 100

    def meetings(self, evaluations: int) -> range:
        """Return the numbers of evaluations of each restart after which the consensus is computed."""
        return range(max(1, math.ceil(self.start * evaluations)), evaluations, self.every)

    def aims(self, units: Sequence[Tensor], labels: Sequence[Tensor], first: int) -> list[Tensor]:
        """Return the consensus in the order of each restart. Others are matched to restart `first`."""
        orders = match_examples(units, labels, first)
        ordered = torch.stack([unit[order] for unit, order in zip(units, orders, strict=True)])
        middle = self.mean(ordered.detach())
        return [middle[order.argsort()] for order in orders]
