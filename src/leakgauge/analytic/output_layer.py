"""Where the recursion starts: the input h and delta = dL/dz of the last layer z = W h + b, for one example.

dW = delta h' has one singular triple, delta = t a and h = s v / t with one unknown number t. Where db is
shared, delta = db. Where it is not, t solves  t a = dL/dz (W s v / t + b, y)  for the right label y. With
one output and the logistic loss that is  W . dW = -u / (1 + e^u)  of R-GAP (equation 9), which two t may
solve; with more outputs there are more equations than unknowns.
"""

from __future__ import annotations

from torch import Tensor

from leakgauge.analytic.chain import Chain
from leakgauge.core import Loss
from leakgauge.federated.isolation.untouched import value_of
from leakgauge.output.one_label import MOST, Explained, explain, slope_of

MISFIT = 1e-2
"""Relative misfit up to which a solution is one."""


def starts(
    chain: Chain, loss: Loss, dweight: Tensor, dbias: Tensor | None, *, classes: int
) -> list[Explained]:
    """Return what explains dweight (O, F) and dbias (O,) of the last layer, best first; float64.

    The list holds the nearest alone if nothing explains them. It is empty if the loss takes no class labels.
    """
    layer = chain.layers[-1].module
    weight = layer.weight.detach()
    bias = None if layer.bias is None else layer.bias.detach()
    slope = slope_of(lambda z, targets: value_of(loss, chain.finish(z), targets), len(weight))
    if slope is None:
        return []
    found = explain(slope, weight, bias, dweight, dbias, range(classes))
    # Of a blurred update nothing is a solution: the nearest is the best guess.
    return [start for start in found if start.misfit <= MISFIT][:MOST] or found[:1]
