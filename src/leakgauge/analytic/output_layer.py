"""Starts of the recursion: input h and delta = dL/dz of the last layer z = W h + b, for one example.

The gradient dW = delta h' has one singular triple (a, s, v). So delta = t a and h = s v / t, with
one unknown number t. If db is shared, delta = db. If not, t solves `t a = dL/dz (W s v / t + b, y)`
for the right label y. With one output and the logistic loss this is equation 9 of R-GAP,
`W . dW = -u / (1 + e^u)`, which two values of t may solve. With more outputs there are more
equations than unknowns.

References:
    Zhu, Blaschko. R-GAP: Recursive Gradient Attack on Privacy. ICLR 2021, equation 9.
    arXiv:2010.07733.
"""

from __future__ import annotations

from torch import Tensor

from leakgauge.analytic.chain import Chain
from leakgauge.core import Loss
from leakgauge.federated.isolation.untouched import value_of
from leakgauge.output.one_label import MOST, Explained, explain, slope_of

MISFIT = 1e-2
"""Largest relative misfit of a solution."""


def starts(
    chain: Chain, loss: Loss, dweight: Tensor, dbias: Tensor | None, *, classes: int
) -> list[Explained]:
    """Return the solutions for dweight (O, F) and dbias (O,) of the last layer, best first, in float64.

    If no solution explains the gradients, the list holds only the nearest one. It is empty if the
    loss takes no class labels.
    """
    layer = chain.layers[-1].module
    weight = layer.weight.detach()
    bias = None if layer.bias is None else layer.bias.detach()
    slope = slope_of(lambda z, targets: value_of(loss, chain.finish(z), targets), len(weight))
    if slope is None:
        return []
    found = explain(slope, weight, bias, dweight, dbias, range(classes))
    # A noisy update has no exact solution. The nearest is then the best start.
    return [start for start in found if start.misfit <= MISFIT][:MOST] or found[:1]
