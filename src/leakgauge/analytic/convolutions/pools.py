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

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from leakgauge.analytic.convolutions.equations import GradientOf, OutputOf, from_columns, to_columns
from leakgauge.analytic.convolutions.geometry import Geometry
from leakgauge.analytic.convolutions.inputs import Solved, solve_input
from leakgauge.core import Inapplicable
from leakgauge.core.pulse import Beat, quiet

ROUNDS = 40
"""Largest number of alternations."""
SURE = 1 - 1e-4
"""Mean probability of the likeliest places from which on they are whole."""
STALLED, LEAST_GAIN = 8, 0.005
"""Number of alternations after which this mean must have grown by this number."""
MANY = 1500
"""Number of places of one channel's windows in doubt, up to which the gradient decides on them."""
SPREAD = 2.0
"""Factor on the variance of an input's errors, since errors of neighbors agree."""
TRUSTED = 0.1
"""Least fraction of the gradient's unexplained part that counts as an effect of the input's error."""
REWEIGHTED = 3
"""Number of times that equations with wrong places are told by their misfit, in one alternation."""
AMPLE = 2.0
"""Gradient equations for each unknown from which on the outputs do not enter the input."""
ITERATIONS = 30
"""Largest number of conjugate gradient iterations of one alternation."""
HARD = 8
"""Largest number of times that whole places are computed again from the solved input."""
FITS = 3e-5
"""Largest relative misfit of the gradient and of the outputs at which an input is believed."""


@dataclass(frozen=True, eq=False)
class Pooled:
    """A convolution, an affine map of each channel, perhaps a ReLU, and a max pool.

    Args:
        geometry: The places that the convolution reads.
        weight: Its weight (O, C, K).
        dweight: The gradient of its weight (O, C, K).
        factor: (O,), factor from the convolution's output to the pool's input.
        shift: (O,), shift between the two.
        windows: Positions (W, Q) of each window of the pool. P stands for its padding.
        value: The pool's output (B, O, W).
        signal: The signal at the pool's output (B, O, W).
        rectified: Whether a ReLU is in front of the pool.
        positive: Whether the convolution's input is nonnegative.
    """

    geometry: Geometry
    weight: Tensor
    dweight: Tensor
    factor: Tensor
    shift: Tensor
    windows: Tensor
    value: Tensor
    signal: Tensor
    rectified: bool
    positive: bool

    @cached_property
    def shown(self) -> Tensor:
        """Marks (B, O, W) of windows whose output is not the ReLU's 0."""
        return self.value > 0 if self.rectified else torch.ones_like(self.value, dtype=torch.bool)

    @cached_property
    def ample(self) -> bool:
        """Whether the gradient alone has many more equations than the input has values."""
        rows = int(self.sent.any(2).any(0).sum()) * self.geometry.taps
        return rows >= AMPLE * len(self.value) * self.geometry.places

    @cached_property
    def sent(self) -> Tensor:
        """The signal (B, O, W) that passes the ReLU, at the convolution's output."""
        return self.signal * self.shown * self.factor[:, None]

    @cached_property
    def aims(self) -> Tensor:
        """The convolution's output without its shift (B, O, W) at the place of each window."""
        return (self.value - self.shift[:, None]) / self.factor[:, None]

    def outputs(self, inputs: Tensor) -> Tensor:
        """Return the convolution's output without shift (B, O, P) for inputs (B, C, N)."""
        return torch.einsum("bcpk,ock->bop", self.geometry.unfold(inputs), self.weight)

    def back(self, outputs: Tensor) -> Tensor:
        """Return the adjoint (B, C, N) of `outputs`."""
        return self.geometry.fold(torch.einsum("bop,ock->bcpk", outputs, self.weight))

    def view(self, outputs: Tensor) -> Tensor:
        """Return the pool's input (B, O, W, Q), with minus infinity for its padding."""
        y = outputs * self.factor[:, None] + self.shift[:, None]
        padded = torch.nn.functional.pad(y, (0, 1), value=-torch.inf)
        return padded[..., self.windows]

    def spread(self, of_windows: Tensor) -> Tensor:
        """Return numbers (B, O, W, Q) of places, summed to positions (B, O, P)."""
        total = of_windows.new_zeros(*of_windows.shape[:2], self.geometry.positions + 1)
        total.index_add_(2, self.windows.flatten(), of_windows.flatten(2))
        return total[..., :-1]


def read_below(pooled: Pooled, start: Tensor, *, beat: Beat = quiet) -> Solved | Inapplicable:
    """Return the input of a convolution below a max pool, or the reason why it is not found.

    Args:
        pooled: The convolution and the pool.
        start: A rough input (B, C, N).
        beat: Called before each alternation.
    """
    inputs, sure = start, [0.0]
    places = _by_outputs(pooled, inputs, 1e-9 * start.square().mean().expand(len(start), 1, 1))
    for _ in range(ROUNDS):
        beat()
        error = _error(pooled, inputs, places)
        places = _by_outputs(pooled, inputs, error)
        error = _error(pooled, inputs, places)
        places = _by_gradient(pooled, inputs, error, places)
        inputs = _input_from(pooled, inputs, error, places)
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
    solved = _solve(pooled, whole)
    for _ in range(HARD):
        if isinstance(solved, Inapplicable):
            return solved
        after = pooled.view(pooled.outputs(solved.inputs)).argmax(-1)
        if not bool((after != whole)[pooled.shown].any()):
            break
        whole = torch.where(pooled.shown, after, whole)
        solved = _solve(pooled, whole)
    return solved


def _error(pooled: Pooled, inputs: Tensor, places: Tensor) -> Tensor:
    """Return the mean squared error (B, 1, 1) of the inputs, from what gradient and outputs leave unexplained."""
    seen = (pooled.view(pooled.outputs(inputs)).amax(-1) - pooled.value) * pooled.shown
    size = (pooled.weight.square().sum((1, 2)) * pooled.factor.square())[:, None]
    by_outputs = seen.square().sum((1, 2)) / (size * pooled.shown).sum((1, 2)).clamp_min(1e-300)
    signal = pooled.spread(places * pooled.sent[..., None])
    patches = pooled.geometry.unfold(inputs).movedim(1, 2).flatten(2)
    gap = pooled.dweight.flatten(1) - torch.einsum("bop,bpd->od", signal, patches)
    left = gap.square().mean(1)
    rest = (left - _variance(pooled, inputs, places)).sum().clamp_min(TRUSTED * left.sum())
    by_gradient = rest / pooled.sent.square().sum()
    least = 1e-14 * inputs.square().mean()
    return torch.maximum(by_outputs, by_gradient).clamp_min(least).reshape(-1, 1, 1)


def _by_outputs(pooled: Pooled, inputs: Tensor, error: Tensor) -> Tensor:
    """Return the probability (B, O, W, Q) of each place, given the inputs. One position has the known value."""
    size = (pooled.weight.square().sum((1, 2)) * pooled.factor.square())[:, None]
    deviation = (error * size).sqrt()[..., None]
    gap = (pooled.value[..., None] - pooled.view(pooled.outputs(inputs))) / deviation
    below = torch.special.log_ndtr(gap.clamp(max=1e6))
    score = -0.5 * gap.square() + below.sum(-1, keepdim=True) - below
    found: Tensor = score.softmax(-1) * pooled.shown[..., None]
    return found


def _by_gradient(pooled: Pooled, inputs: Tensor, error: Tensor, places: Tensor) -> Tensor:
    """Return the probability (B, O, W, Q) of each place, given its prior and the gradient."""
    geometry, found = pooled.geometry, places.clone()
    patches = geometry.unfold(inputs).movedim(1, 2).flatten(2)  # (B, P, C K)
    rows = torch.nn.functional.pad(patches, (0, 0, 0, 1)).flatten(0, 1)  # the last one is padding
    gram = rows @ rows.T
    signal = pooled.spread(places * pooled.sent[..., None])
    gap = pooled.dweight.flatten(1) - torch.einsum("bop,bpd->od", signal, patches)
    along = gap @ rows.T
    noise = SPREAD * (pooled.sent.square() * error).sum((0, 2))
    starts = torch.arange(len(inputs))[:, None, None] * (geometry.positions + 1)
    where = starts + pooled.windows  # (B, W, Q)
    doubted = pooled.shown & (places.amax(-1) < 1 - 1e-9)
    for channel in (noise > 0).nonzero()[:, 0].tolist():
        b, w = doubted[:, channel].nonzero(as_tuple=True)
        if not 0 < len(b) * places.shape[-1] <= MANY:
            continue
        found[b, channel, w] = _posterior(
            places[b, channel, w],
            pooled.sent[b, channel, w],
            gram,
            along[channel],
            where[b, w],
            float(noise[channel]),
        )
    return found


def _posterior(
    prior: Tensor, signal: Tensor, gram: Tensor, along: Tensor, where: Tensor, noise: float
) -> Tensor:
    """Return the posterior (n, Q) of the places of one channel's windows.

    Args:
        prior: Their prior (n, Q).
        signal: Signals (n,).
        gram: Inner products of all patches.
        along: Inner products of the unexplained gradient with all patches.
        where: Number (n, Q) of the patch of each place.
        noise: Variance of one entry of the gradient.
    """
    n, q = prior.shape
    root = prior.sqrt()
    # The covariance of a choice of one place is F F'.
    factor = torch.diag_embed(root) - prior[:, :, None] * root[:, None]
    flat, each = where.flatten(), signal.repeat_interleave(q)
    inner = (gram[flat][:, flat] * each[:, None] * each).reshape(n, q, n, q)
    inner = torch.einsum("nij,nikl->njkl", factor, inner)
    inner = torch.einsum("njkl,klm->njkm", inner, factor).reshape(n * q, n * q) / noise
    right = torch.einsum("nij,ni->nj", factor, along[where] * signal[:, None]).flatten() / noise
    inner.diagonal().add_(1)
    solution = torch.linalg.solve(inner, right).reshape(n, q)
    found = (prior + torch.einsum("nij,nj->ni", factor, solution)).clamp_min(1e-4)
    found = found * (prior > 0)
    return found / found.sum(-1, keepdim=True)


def _input_from(pooled: Pooled, inputs: Tensor, error: Tensor, places: Tensor) -> Tensor:
    """Return the inputs (B, C, N) that fit the gradient and the outputs, given the places."""
    geometry, batch = pooled.geometry, len(inputs)
    everything = torch.ones(batch, len(pooled.weight), geometry.positions, dtype=torch.bool)
    full = pooled.spread(places * pooled.sent[..., None])
    gradient = GradientOf(geometry, pooled.dweight, full, everything, ~everything)
    matrix = gradient.matrix()
    size = pooled.weight.square().sum((1, 2))[:, None]
    trust = places.square() * (10 * pooled.shown / (error * size))[..., None]
    prior = error
    found = inputs
    for _ in range(REWEIGHTED):
        # A row or an output with a wrong place fits badly, and counts little.
        gap = gradient.right - matrix @ to_columns(found)
        left = gap.square().reshape(-1, geometry.taps * gap.shape[1]).mean(1)
        left = left + 1e-14 * gradient.right.square().mean()
        weight = (1 / left).repeat_interleave(geometry.taps)
        seen = pooled.outputs(found)
        padded = torch.nn.functional.pad(seen, (0, 1))[..., pooled.windows]
        off = (padded - pooled.aims[..., None]).square() / (error * size)[..., None]
        robust = trust / (1 + off)
        total = pooled.spread(robust)
        aims = pooled.spread(robust * pooled.aims[..., None])
        gram = matrix.T @ (matrix * weight[:, None])
        right = from_columns(matrix.T @ (gap * weight[:, None]), batch)
        right = right + (inputs - found) / prior
        if not pooled.ample:
            right = right + pooled.back(aims - seen * total)
        change = _solve_normal(pooled, gram, total, 1 / prior, right)
        found = found + change
        found = found.clamp_min(0) if pooled.positive else found
    return found


def _solve_normal(
    pooled: Pooled, gram: Tensor, total: Tensor, prior: Tensor, right: Tensor
) -> Tensor:
    """Return the change (B, C, N) of the inputs, by conjugate gradients.

    Args:
        pooled: The convolution.
        gram: The gradient's normal matrix (B N, B N), for each channel.
        total: Weights (B, O, P) of the outputs.
        prior: Weights (B, 1, 1) of the previous input.
        right: The right side (B, C, N).
    """
    batch, channels, places = right.shape
    if pooled.ample:
        diagonal = torch.diag(prior.flatten().repeat_interleave(places))
        factor = torch.linalg.cholesky(gram + diagonal)
        return from_columns(torch.cholesky_solve(to_columns(right), factor), batch)
    size = pooled.weight.square().sum((1, 2))[:, None]
    typical = (total * size).sum((1, 2)) / (channels * places) + prior.flatten()
    inverse = torch.cholesky_inverse(
        torch.linalg.cholesky(gram + torch.diag(typical.repeat_interleave(places)))
    )

    def normal(change: Tensor) -> Tensor:
        by_gradient = from_columns(gram @ to_columns(change), batch)
        return by_gradient + pooled.back(pooled.outputs(change) * total) + change * prior

    def precondition(rest: Tensor) -> Tensor:
        return from_columns(inverse @ to_columns(rest), batch)

    change, rest = torch.zeros_like(right), right
    way = near = precondition(rest)
    rho = first = float((rest * near).sum())
    for _ in range(ITERATIONS):
        if rho <= 1e-8 * first:
            break
        image = normal(way)
        step = rho / float((way * image).sum())
        change, rest = change + step * way, rest - step * image
        near = precondition(rest)
        rho, before = float((rest * near).sum()), rho
        way = near + (rho / before) * way
    return change


def _variance(pooled: Pooled, inputs: Tensor, places: Tensor) -> Tensor:
    """Return the variance (O,) of the gradient's entries that uncertain places leave."""
    patches = pooled.geometry.unfold(inputs).movedim(1, 2).flatten(2)
    each = torch.nn.functional.pad(patches, (0, 0, 0, 1))[:, pooled.windows]  # (B, W, Q, C K)
    gram = each @ each.mT / each.shape[-1]
    power = torch.einsum("bowq,bwqq->bow", places, gram)
    of_mean = torch.einsum("bowq,bowr,bwqr->bow", places, places, gram)
    return (pooled.sent.square() * (power - of_mean).clamp_min(0)).sum((0, 2))


def _solve(pooled: Pooled, whole: Tensor) -> Solved | Inapplicable:
    """Return the inputs for whole places (B, O, W)."""
    hot = torch.nn.functional.one_hot(whole, pooled.windows.shape[1]).to(pooled.value)
    full = pooled.spread(hot * pooled.sent[..., None])
    everything = torch.ones_like(full, dtype=torch.bool)
    gradient = GradientOf(pooled.geometry, pooled.dweight, full, everything, ~everything)
    marks = hot * pooled.shown[..., None]
    count = pooled.spread(marks)
    output = pooled.spread(marks * pooled.aims[..., None]) / count.clamp_min(1)
    return solve_input(
        [gradient], None, [OutputOf(pooled.geometry, pooled.weight, output, count > 0)]
    )


def _misfit_of_outputs(pooled: Pooled, inputs: Tensor) -> float:
    """Return the relative misfit of the pool's outputs."""
    gap = (pooled.view(pooled.outputs(inputs)).amax(-1) - pooled.value) * pooled.shown
    return float(gap.norm() / (pooled.value * pooled.shown).norm())
