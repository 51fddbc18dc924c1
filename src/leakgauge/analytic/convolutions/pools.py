r"""The input of a convolution below a max pool, from the pool's known output and signal.

A max pool sends the signal of each window to one position, the place of its maximum. The place follows
from the pool's input, which is not known. So signals end there. But three things are known of each window
w of channel o: its output a, its signal s, and the gradient of the weight below,

.. math::

    dW_o = \sum_{b, w} s_{b o w} \sum_q m_{b o w q} \, v_{b, p(w, q)}

Here v are the patches of the unknown input, and m is 1 at the place and 0 elsewhere. Alternate steps find
both, from a rough input u such as that of a rough image:

1. *Places, from the outputs.* One position has the value a, and the others have less.
2. *Places, from the gradient.* Given u, `dW_o` is linear in m. The first step is its prior. A Gaussian with
   the mean and the covariance of the prior gives the posterior mean.
3. *Input.* Given m, both `dW` and the outputs at the places are linear in u. Each equation has the variance
   that the places leave, and the previous input is the prior.

The errors of u and m lower each other. At the end the places are whole, linear equations give the
input, and their residual certifies it.

References:
    Ours. We know of no publication.
"""

from __future__ import annotations

import torch
from torch import Tensor

from leakgauge.analytic.convolutions.inputs import Solved
from leakgauge.analytic.convolutions.max_pool import Pooled
from leakgauge.analytic.convolutions.pool_inputs import fit_inputs, solve_for_places
from leakgauge.analytic.convolutions.pool_places import (
    error_of_inputs,
    places_by_gradient,
    places_by_outputs,
)
from leakgauge.core import Inapplicable
from leakgauge.core.pulse import Beat, quiet

ROUNDS = 40
"""Largest number of alternations."""
SURE = 1 - 1e-4
"""Mean probability of the likeliest places from which on they are whole."""
STALLED, LEAST_GAIN = 8, 0.005
"""Number of alternations after which this mean must have grown by this number."""
HARD = 8
"""Largest number of times that whole places are computed again from the solved input."""
FITS = 3e-5
"""Largest relative misfit of the gradient and of the outputs at which an input is believed."""


def read_below(pooled: Pooled, start: Tensor, *, beat: Beat = quiet) -> Solved | Inapplicable:
    """Return the input of a convolution below a max pool, or the reason why it is not found.

    Args:
        pooled: The convolution and the pool.
        start: A rough input (B, C, N).
        beat: Called before each alternation.
    """
    inputs, sure = start, [0.0]
    places = places_by_outputs(
        pooled, inputs, 1e-9 * start.square().mean().expand(len(start), 1, 1)
    )
    for _ in range(ROUNDS):
        beat()
        error = error_of_inputs(pooled, inputs, places)
        places = places_by_outputs(pooled, inputs, error)
        error = error_of_inputs(pooled, inputs, places)
        places = places_by_gradient(pooled, inputs, error, places)
        inputs = fit_inputs(pooled, inputs, error, places)
        sure.append(float(places.amax(-1)[pooled.shown].mean()))
        if sure[-1] > SURE or sure[-1] - sure[-STALLED - 1 :][0] < LEAST_GAIN:
            break
    solved = _solve_whole(pooled, places.argmax(-1))
    if isinstance(solved, Inapplicable):
        return solved
    misfit = max(solved.misfit, _misfit_of_outputs(pooled, solved.inputs))
    if misfit > FITS:
        return Inapplicable(
            f"no places of the max pool behind it explain its gradient (relative misfit {misfit:.0e}, places "
            f"sure to {sure[-1]:.4f} on average)"
        )
    return solved


def _solve_whole(pooled: Pooled, whole: Tensor) -> Solved | Inapplicable:
    """Return the input for whole places (B, O, W), which are computed again from it until none changes."""
    solved = solve_for_places(pooled, whole)
    for _ in range(HARD):
        if isinstance(solved, Inapplicable):
            return solved
        after = pooled.view(pooled.outputs(solved.inputs)).argmax(-1)
        if not bool((after != whole)[pooled.shown].any()):
            break
        whole = torch.where(pooled.shown, after, whole)
        solved = solve_for_places(pooled, whole)
    return solved


def _misfit_of_outputs(pooled: Pooled, inputs: Tensor) -> float:
    """Return the relative misfit of the pool's outputs."""
    gap = (pooled.view(pooled.outputs(inputs)).amax(-1) - pooled.value) * pooled.shown
    return float(gap.norm() / (pooled.value * pooled.shown).norm())
