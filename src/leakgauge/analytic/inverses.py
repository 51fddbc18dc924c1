"""Functions of one entry each, undone: activations, and BatchNorm by running statistics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

OPEN = 1e-12
"""How near to an activation's limit a value is taken to be, where rounding put it beyond."""

DOUBTFUL = 30.0
"""Multiple of the error's estimate, up to which an output of a ReLU may be 0 or not."""
GAP = 10.0
"""Least ratio of two neighboring outputs of a ReLU between which the zeros are taken to end."""

Inverse = Callable[[Any, Tensor], Tensor]


def applied(modules: tuple[nn.Module, ...], z: Tensor) -> Tensor:
    """Return z of one example after modules that expect a batch."""
    for module in modules:
        z = module(z.unsqueeze(0))[0]
    return z


def undone(
    modules: tuple[nn.Module, ...], h: Tensor, *, noise: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Return z, which entries of z are known, and the slope dh/dz (each like h), from h after functions of one entry.

    A ReLU hides z where it gave 0, and its slope is 0 there.

    Args:
        modules: each a ReLU, or one with an `inverse`.
        h: of one example.
        noise: the least error of h, relative to its largest entry.

    Raises:
        TypeError: a module has no known inverse.
    """
    # Strides of channels last, with the gradient of a sum, mislead BatchNorm's backward (torch 2.13).
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
    (slope,) = torch.autograd.grad(applied(modules, point).sum(), [point])
    return z, known, torch.where(known, slope, 0)


def largest_zero(h: Tensor, noise: float) -> float:
    """Return the value up to which an entry of h, the output of a ReLU with an error, counts as 0.

    noise: the least error of h, relative to its largest entry.
    """
    # True values are not negative, so the most negative entry measures the error. It differs from entry to entry.
    floor = max(2 * float(-h.min()), noise * float(h.abs().max()), 0.0)
    above = h[h > floor].sort().values
    doubtful = above[: int((above <= DOUBTFUL * floor).sum()) + 1]
    if len(doubtful) < 2:
        return floor
    # A single misplaced entry spoils every layer before: the wide gap between rounding and values decides.
    ratios = doubtful[1:] / doubtful[:-1]
    widest = int(ratios.argmax())
    return float(doubtful[widest]) if float(ratios[widest]) >= GAP else floor


def _leaky_relu(module: nn.LeakyReLU, h: Tensor) -> Tensor:
    return torch.where(h > 0, h, h / module.negative_slope)


def _elu(module: nn.ELU, h: Tensor) -> Tensor:
    return torch.where(h > 0, h, (h / module.alpha).clamp_min(OPEN - 1).log1p())


def _softplus(module: nn.Softplus, h: Tensor) -> Tensor:
    scaled = (module.beta * h).clamp_min(OPEN)
    z: Tensor = (scaled + (-(-scaled).expm1()).log()) / module.beta
    return z


def _batch_norm(module: nn.Module, h: Tensor) -> Tensor:
    with torch.no_grad():
        zero, one = (module(torch.full_like(h, value).unsqueeze(0))[0] for value in (0.0, 1.0))
    undone: Tensor = (h - zero) / (one - zero)
    return undone


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
    """Return the inverse of an elementwise module, from h (*shape) to z, or None if none is known."""
    for kind, function in _INVERSES.items():
        if isinstance(module, kind):
            return function
    return None
