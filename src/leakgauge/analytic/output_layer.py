"""Where the recursion starts: the input h and delta = dL/dz of the last layer z = W h + b, for one example.

dW = delta h' has one singular triple, delta = t a and h = s v / t with one unknown number t. Where db is
shared, delta = db. Where it is not, t solves  t a = dL/dz (W s v / t + b, y)  for the right label y. With
one output and the logistic loss that is  W . dW = -u / (1 + e^u)  of R-GAP (equation 9), which two t may
solve; with more outputs there are more equations than unknowns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from leakgauge.analytic.chain import Chain
from leakgauge.analytic.linear import rank_one
from leakgauge.core import Loss
from leakgauge.federated.untouched import value_of

STEPS = 40
"""Values of t tried in each power of ten."""
POWERS = (-9, 2)
"""Powers of ten between which t is looked for: below them a gradient is rounding."""
LABELS = 8
"""Labels tried: those whose output the gradient moves most."""
MISFIT = 1e-2
"""Relative misfit up to which a solution is one."""
MOST = 3
"""Solutions kept."""

Slope = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class Start:
    """delta (O,), features (F,) and label that explain the last layer's gradient to a relative misfit."""

    delta: Tensor
    features: Tensor
    label: int
    misfit: float


def starts(
    chain: Chain, loss: Loss, dweight: Tensor, dbias: Tensor | None, *, classes: int
) -> list[Start]:
    """What explains dweight (O, F) and dbias (O,) of the last layer, best first; float64.

    Where nothing does, what comes nearest.
    """
    layer = chain.links[-1].layer
    weight = layer.weight.detach()
    bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach()

    def slope(z: Tensor, label: int) -> Tensor:
        """dL/dz (N, O) of examples with outputs z (N, O), all of one label."""
        point = z.detach().clone().requires_grad_()
        targets = torch.full((len(z),), label, dtype=torch.long)
        # The loss is a mean over the examples.
        value = value_of(loss, chain.finish(point), targets) * len(z)
        (found,) = torch.autograd.grad(value, [point])
        return found

    if dbias is not None and bool(dbias.any()):
        features = rank_one(dweight, dbias, torch.ones_like(dweight))
        z = (weight @ features + bias).unsqueeze(0)
        found = [_start(dbias, features, slope(z, y)[0], y) for y in _labels(dbias, classes)]
    else:
        left, values, right = torch.linalg.svd(dweight, full_matrices=False)
        line = _Line(left[:, 0], values[0] * right[0], weight, bias, slope)
        found = [start for y in _labels(left[:, 0], classes) for start in line.solutions(y)]
    found = sorted(found, key=lambda start: start.misfit)
    # Of a blurred update nothing is a solution: the nearest is the best guess.
    return [start for start in found if start.misfit <= MISFIT][:MOST] or found[:1]


def _start(delta: Tensor, features: Tensor, slope: Tensor, label: int) -> Start:
    return Start(delta, features, label, float((delta - slope).norm() / delta.norm()))


def _labels(delta: Tensor, classes: int) -> list[int]:
    """The labels worth trying: the example's own output is among those that it moves most."""
    if len(delta) != classes:
        return list(range(classes))
    return delta.abs().argsort(descending=True)[:LABELS].tolist()


@dataclass(frozen=True)
class _Line:
    """delta = t a and h = v / t, t of either sign."""

    a: Tensor
    v: Tensor
    weight: Tensor
    bias: Tensor
    slope: Slope

    def at(self, t: Tensor) -> Tensor:
        """The outputs (N, O) that each t (N,) means."""
        return (self.weight @ self.v) / t.unsqueeze(1) + self.bias

    def misfits(self, t: Tensor, label: int) -> Tensor:
        """How far delta is from what the outputs cause, relative to delta, for each t (N,)."""
        delta = t.unsqueeze(1) * self.a
        left: Tensor = (delta - self.slope(self.at(t), label)).norm(dim=1)
        return left / t.abs()

    def solutions(self, label: int) -> list[Start]:
        """Every least misfit along the line, made precise."""
        low, high = POWERS
        powers = torch.linspace(low, high, STEPS * (high - low) + 1, dtype=torch.float64)
        found = []
        for sign in (1.0, -1.0):
            values = self.misfits(sign * 10**powers, label)
            least = (values[1:-1] <= values[:-2]) & (values[1:-1] <= values[2:])
            places = least.nonzero().squeeze(1) + 1
            for i in places[values[places].argsort()[:MOST]].tolist():
                bounds = (float(powers[i - 1]), float(powers[i + 1]))
                found.append(self.refined(sign, bounds, label))
        return found

    def refined(self, sign: float, bounds: tuple[float, float], label: int) -> Start:
        """The least misfit between two powers of ten."""

        def misfit(power: float) -> float:
            t = torch.tensor([sign * 10**power], dtype=torch.float64)
            return float(self.misfits(t, label)[0])

        best = minimize_scalar(misfit, bounds=bounds, method="bounded", options={"xatol": 1e-14})
        t = sign * 10 ** float(best.x)
        return Start(t * self.a, self.v / t, label, misfit(float(best.x)))
