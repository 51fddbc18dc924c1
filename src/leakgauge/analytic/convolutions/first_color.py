r"""The mean color of the images, from the gradient of the first convolution.

A shift behind a convolution has the gradient :math:`d\beta_o = \sum_p \Delta_{o p}`. If all patches had
the same color x, the gradient of the weight would be :math:`dW_{o c k} = x_c \, d\beta_o`. So least
squares over all output channels and taps tells about the mean color of the images. No layer above the
first one enters.

References:
    Ours. We know of no publication.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from leakgauge.analytic.convolutions.problem import Problem
from leakgauge.analytic.convolutions.shift_scale import shift_behind


def first_color(
    problem: Problem, enter: Callable[[Tensor], Tensor], shape: Sequence[int]
) -> Tensor | None:
    """Return the mean (C,) of an image over places in unit coordinates, or None if no gradient tells it.

    In a batch of several examples, it would be a mean over them. This tells no one's color.

    Args:
        problem: The network and its gradients.
        enter: Map from unit coordinates to the network's input.
        shape: Shape `(C, *size)` of one example.
    """
    network, gradients = problem.network, problem.gradients
    first = network.convolutions[0]
    shift = shift_behind(network, first)
    if problem.count != 1 or first.groups != 1 or shift is None:
        return None
    if first.name not in gradients or shift.name not in gradients:
        return None
    signal = gradients[shift.name] * shift.factor.to(gradients[shift.name])
    dweight = gradients[first.name].flatten(2)  # (O, C, K)
    if not float(signal.norm()):
        return None
    reads = first.geometry.reads.sum() / (first.geometry.positions * first.geometry.taps)
    entering = torch.einsum("ock,o->c", dweight, signal) / signal.square().sum()
    entering = entering / (dweight.shape[2] * reads)
    with torch.no_grad():
        low, high = (
            network.evaluate([first.source], {network.entry: enter(plain)})[first.source]
            for plain in (torch.full((1, *shape), level).to(dweight) for level in (0.0, 1.0))
        )
    if tuple(low.shape[1:]) != tuple(shape):
        return None
    low, step = low.flatten(2).mean((0, 2)), (high - low).flatten(2).mean((0, 2))
    if not bool((step.abs() > 0).all()):
        return None
    return ((entering - low) / step).clamp(0, 1)
