"""Inverses of elementwise functions: activations, and BatchNorm with running statistics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

OPEN = 1e-12
"""Rounding can put an output at or beyond the limit of its activation.

It is moved back to this distance from the limit.
"""

DOUBTFUL = 30.0
"""Outputs of a ReLU up to this multiple of the estimated error may still be 0."""
GAP = 10.0
"""Least ratio between an output of a ReLU and the next smaller one at which the zeros may end."""

Inverse = Callable[[Any, Tensor], Tensor]
"""Function from a module and its output h to its input z."""


def apply_modules(modules: tuple[nn.Module, ...], z: Tensor) -> Tensor:
    """Return the output of modules for the input z of one example. The modules expect a batch."""
    for module in modules:
        z = module(z.unsqueeze(0))[0]
    return z


def invert_modules(
    modules: tuple[nn.Module, ...], h: Tensor, *, noise: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Return z, a mask of its known entries, and the slope dh/dz, each in the shape of h.

    A ReLU hides z where its output is 0, and its slope is 0 there.

    Args:
        modules: Elementwise modules, each a ReLU or one with an `inverse`.
        h: Their output for one example.
        noise: Least error of h, relative to its largest entry.

    Raises:
        TypeError: A module has no known inverse.
    """
    # In channels-last layout, the backward pass of BatchNorm is wrong for the gradient of a sum
    # (torch 2.13).
    h = h.contiguous()
    z, known = h, torch.ones_like(h, dtype=torch.bool)
    for module in reversed(modules):
        if isinstance(module, nn.ReLU):
            known &= z > largest_zero(z, noise)
        else:
            undo = inverse(module)
            if undo is None:
                raise TypeError(f"{type(module).__name__} has no known inverse")
            z = undo(module, z)
    point = torch.where(known, z, -torch.ones_like(z)).requires_grad_()
    (slope,) = torch.autograd.grad(apply_modules(modules, point).sum(), [point])
    return z, known, torch.where(known, slope, 0)


def largest_zero(h: Tensor, noise: float) -> float:
    """Return the value up to which an entry of h counts as 0.

    Args:
        h: Output of a ReLU, with an error.
        noise: Least error of h, relative to its largest entry.
    """
    # True values are at least 0, so the most negative entry measures the error. Errors differ
    # between entries, so twice its size is the floor.
    floor = max(2 * float(-h.min()), noise * float(h.abs().max()), 0.0)
    above = h[h > floor].sort().values
    doubtful = above[: int((above <= DOUBTFUL * floor).sum()) + 1]
    if len(doubtful) < 2:
        return floor
    # One wrong decision falsifies every earlier layer. The widest gap between doubtful entries
    # therefore separates zeros from values.
    ratios = doubtful[1:] / doubtful[:-1]
    widest = int(ratios.argmax())
    return float(doubtful[widest]) if float(ratios[widest]) >= GAP else floor


def _leaky_relu(module: nn.LeakyReLU, h: Tensor) -> Tensor:
    """Return z of LeakyReLU's output h."""
    return torch.where(h > 0, h, h / module.negative_slope)


def _elu(module: nn.ELU, h: Tensor) -> Tensor:
    """Return z of ELU's output h."""
    return torch.where(h > 0, h, (h / module.alpha).clamp_min(OPEN - 1).log1p())


def _softplus(module: nn.Softplus, h: Tensor) -> Tensor:
    """Return z of Softplus' output h."""
    scaled = (module.beta * h).clamp_min(OPEN)
    z: Tensor = (scaled + (-(-scaled).expm1()).log()) / module.beta
    return z


def _batch_norm(module: nn.Module, h: Tensor) -> Tensor:
    """Return the input of a BatchNorm with running statistics, which is affine."""
    with torch.no_grad():
        zero, one = (module(torch.full_like(h, value).unsqueeze(0))[0] for value in (0.0, 1.0))
    found: Tensor = (h - zero) / (one - zero)
    return found


_INVERSES: dict[type[nn.Module], Inverse] = {
    nn.LeakyReLU: _leaky_relu,
    nn.Sigmoid: lambda _, h: h.clamp(OPEN, 1 - OPEN).logit(),
    nn.Tanh: lambda _, h: h.clamp(OPEN - 1, 1 - OPEN).atanh(),
    nn.ELU: _elu,
    nn.Softplus: _softplus,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
}


def inverse(module: nn.Module) -> Inverse | None:
    """Return the inverse of an elementwise module, from h to z in the same shape, or None if none is known."""
    for kind, function in _INVERSES.items():
        if isinstance(module, kind):
            return function
    return None
