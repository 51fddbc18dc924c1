"""The input of a convolution from its weight's gradient, through ReLU and max pooling, in float64.

With batch 1, the gradient of the weight is `dW[o, c, k] = sum_l delta[o, l] x[c, l + k]`, over the
output places l. Here x is the input, and delta = dL/dz is known. All input channels c share one
matrix K(delta). Under a ReLU, delta is 0 where its output is 0. Under max pooling, each window of
each output channel o holds one entry of delta. Its size is known, its place is not.

The search starts from the places in a rough image of the example. Two steps alternate:

1. Fit x by least squares. Output channels that do not fit yet have a low weight.
2. Fit the places. Let X[l] be the input values that output place l reads. Then dW_o is the sum over
   windows w of size[o, w] X[place(o, w)]. Windows are placed one after the other.

Each channel of x has O k equations, with O output channels and k kernel entries. There are far
fewer places. Once most places are right, the rest follow, and the fit meets the gradient to
rounding.

References:
    Ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from leakgauge.analytic.chain import Chain, ChainLayer
from leakgauge.analytic.constraints import RANK, gradient_matrix, places_of
from leakgauge.analytic.inverses import apply_modules, invert_modules
from leakgauge.core import Inapplicable

ROUNDS = 20
"""Largest number of alternations of places and input. Successful runs take about 5."""
SWEEPS = 4
"""Number of times that each window is placed again in one alternation."""
PULL, LATER = 1e-3, 1e-5
"""Weight, relative to K'K, that holds the input near its last value: in the first alternations, and in later ones."""
FIRST = 4
"""Number of alternations that use the first weight of PULL, LATER."""


@dataclass(frozen=True)
class Known:
    """Known values at one layer of a chain.

    Args:
        place: Index of the layer in the chain.
        x: Input of the layer, `(*shape)`.
        delta: dL/dz at its output, `(*output)`.
        misfit: Relative misfit of the gradient from which x was solved.
    """

    place: int
    x: Tensor
    delta: Tensor
    misfit: float = 0.0


def peel(
    chain: Chain, known: Known, dweight: Tensor, rough: Tensor | None, *, noise: float
) -> Known | Inapplicable:
    """Return the known values of the layer before, or the reason why they cannot be solved for.

    Args:
        chain: The network.
        known: Known values of the layer after it.
        dweight: The gradient of the layer's weight, `(O, C, *kernel)`.
        rough: Unit coordinates `(1, *shape)` of an image that resembles the example. Needed if max
            pooling follows the layer.
        noise: Relative rounding error of the update.
    """
    layer, behind = chain.layers[known.place - 1], chain.layers[known.place]
    if not isinstance(layer.module, nn.Conv2d):
        return Inapplicable(f"{layer.name!r} is a linear layer without a bias, not a convolution")
    back = behind.back(known.delta).reshape(layer.pooled)
    after = known.x.reshape(layer.pooled)
    if layer.pool is None:
        _, _, slope = layer.deactivate(after, noise=noise)
        delta = back * slope
    else:
        assert rough is not None, "expected a rough image, since max pooling follows"
        floor = least_of(chain, known.place - 1)
        size = sizes(layer, after, back, noise=noise)
        search = _Placing(layer, layer.pool, dweight, size, floor)
        delta = search.run(*_values_of_image(chain, known.place - 1, rough))
    return _solve(layer, known.place - 1, delta, dweight)


def least_of(chain: Chain, place: int) -> float:
    """Return the least value that the input of a layer can have."""
    if place == 0:
        return -math.inf
    before = chain.layers[place - 1]
    last = (*before.after, *before.then)[-1:]
    return 0.0 if last and isinstance(last[0], nn.ReLU) else -math.inf


def sizes(layer: ChainLayer, after: Tensor, back: Tensor, *, noise: float) -> Tensor:
    """Return the entry of delta in each window (C, windows), from values after the pool.

    Args:
        layer: The layer before the pool.
        after: Values after the pool, of shape `layer.pooled`.
        back: The gradient dL/d(after), of the same shape.
        noise: Relative rounding error of the update.
    """
    z, _, slope = invert_modules(layer.then, after, noise=noise)
    _, known, steep = invert_modules(layer.after, z, noise=noise)
    return torch.where(known, back * slope * steep, 0).flatten(1)


def _values_of_image(chain: Chain, place: int, rough: Tensor) -> tuple[Tensor, Tensor]:
    """Return the input `(*shape)` of layer `place` and its activation `(*output)` before any pool, for an image."""
    with torch.no_grad():
        x = chain.enter(rough)[0]
        for layer in chain.layers[:place]:
            x = layer.activate(layer.module(x.reshape(1, *layer.shape))[0])
        layer = chain.layers[place]
        x = x.reshape(layer.shape)
        return x, apply_modules(layer.after, layer.module(x.unsqueeze(0))[0])


def _solve(layer: ChainLayer, place: int, delta: Tensor, dweight: Tensor) -> Known | Inapplicable:
    """Return the layer's input, solved from delta and the weight's gradient, or the reason why it is not unique."""
    assert isinstance(layer.module, nn.Conv2d)
    matrix = gradient_matrix(delta.flatten(1), places_of(layer.module, layer), _plane(layer))
    right = _by_channel(dweight)
    values, vectors = torch.linalg.eigh(matrix.T @ matrix)
    rank = int((values > RANK**2 * values[-1]).sum())
    if rank < len(values):
        return Inapplicable(
            f"the gradient of {layer.name!r} has rank {rank} < {len(values)} places of its input"
        )
    x = vectors @ ((vectors.T @ (matrix.T @ right)) / values[:, None])
    misfit = float((matrix @ x - right).norm() / right.norm())
    return Known(place, x.T.reshape(layer.shape), delta, misfit)


class _Placing:
    """Search for the place of each entry of delta in its window, together with the layer's input."""

    def __init__(
        self, layer: ChainLayer, pool: nn.MaxPool2d, dweight: Tensor, size: Tensor, floor: float
    ) -> None:
        assert isinstance(layer.module, nn.Conv2d)
        self.layer, self.size, self.floor = layer, size, floor
        self.sees = places_of(layer.module, layer)  # (L, k)
        self.windows = windows_of(pool, layer.output)  # (windows, inside), -1 for padding
        self.rows, self.right = dweight.flatten(1), _by_channel(dweight)

    def run(self, x: Tensor, activated: Tensor) -> Tensor:
        """Return delta `(*output)`, from approximate values of the layer.

        These are its input x `(*shape)` and its activation `activated` `(*output)`.
        """
        plane, chosen = x.flatten(1).T, self.highest(activated)
        weights = self.rows.new_ones(len(self.rows))
        best, least = chosen, float("inf")
        for turn in range(ROUNDS):
            plane = self.input(chosen, plane, weights, PULL if turn < FIRST else LATER)
            chosen, misfits = self.fit(chosen, plane.T)
            total = float((misfits.square() @ self.rows.square().sum(1)).sqrt() / self.rows.norm())
            if total >= least and turn > FIRST:
                break
            if total < least:
                best, least = chosen, total
            weights = 1 / (misfits + 0.3 * misfits.median().clamp_min(1e-12))
            weights = weights / weights.max()
        return self.place_entries(best).reshape(self.layer.output)

    def highest(self, activated: Tensor) -> Tensor:
        """Return the place (O, windows) of each window's greatest value."""
        return self.first(activated.flatten(1)[:, self.windows.clamp_min(0)])

    def first(self, scores: Tensor) -> Tensor:
        """Return the place (O, windows) with the highest of scores (O, windows, inside). Padding is never chosen."""
        highest = scores.masked_fill(self.windows < 0, -torch.inf).argmax(2)
        return self.windows[torch.arange(len(self.windows)), highest]

    def place_entries(self, chosen: Tensor) -> Tensor:
        """Return delta (O, L) with its entries at these places (O, windows)."""
        count = self.layer.output[1] * self.layer.output[2]
        return self.size.new_zeros(len(chosen), count).scatter_add_(1, chosen, self.size)

    def input(self, chosen: Tensor, plane: Tensor, weights: Tensor, pull: float) -> Tensor:
        """Return the input (P, C) by weighted least squares, held near `plane` with weight `pull` relative to K'K."""
        matrix = gradient_matrix(self.place_entries(chosen), self.sees, _plane(self.layer))
        heavy = weights.repeat_interleave(self.sees.shape[1])[:, None]
        matrix, right = matrix * heavy, self.right * heavy
        gram = matrix.T @ matrix
        gram.diagonal().add_(pull * float(gram.trace()) / len(gram))
        moved: Tensor = plane + torch.linalg.solve(gram, matrix.T @ (right - matrix @ plane))
        return moved.clamp_min(self.floor)

    def fit(self, chosen: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return improved places (O, windows) for the input x (C, P), and the relative misfit (O,) of each channel."""
        padded = torch.cat([x, x.new_zeros(len(x), 1)], 1)
        view = padded[:, self.sees].permute(0, 2, 1).flatten(0, 1)  # (C k, L)
        gram, products = view.T @ view, self.rows @ view
        # There are two starts: the current places, and the places of the least-squares delta.
        scale = 1e-9 * float(gram.trace()) / len(gram)
        ridge = torch.eye(len(gram), dtype=gram.dtype) * scale
        free = torch.linalg.solve(gram + ridge, products.T).T
        both = [
            self.sweep(start, gram, products) for start in (chosen, self.likeliest_places(free))
        ]
        norms = self.rows.norm(dim=1).clamp_min(torch.finfo(gram.dtype).tiny)
        misfits = torch.stack(
            [(self.place_entries(c) @ view.T - self.rows).norm(dim=1) for c in both]
        )
        least, which = (misfits / norms).min(0)
        return torch.stack(both)[which, torch.arange(len(chosen))], least

    def likeliest_places(self, free: Tensor) -> Tensor:
        """Return the place (O, windows) in each window that best matches an unconstrained delta."""
        return self.first(self.size[:, :, None] * free[:, self.windows.clamp_min(0)])

    def sweep(self, chosen: Tensor, gram: Tensor, products: Tensor) -> Tensor:
        """Return places (O, windows) after SWEEPS passes. Each pass places each window again, given all others."""
        chosen, delta = chosen.clone(), self.place_entries(chosen)
        every = torch.arange(len(chosen))
        for _ in range(SWEEPS):
            for w, window in enumerate(self.windows):
                inside, size = window[window >= 0], self.size[:, w]
                delta[every, chosen[:, w]] -= size
                left = products[:, inside] - delta @ gram[:, inside]
                gain = 2 * size[:, None] * left - size[:, None] ** 2 * gram.diagonal()[inside]
                chosen[:, w] = inside[gain.argmax(1)]
                delta[every, chosen[:, w]] += size
        return chosen


def windows_of(pool: nn.MaxPool2d, output: tuple[int, ...]) -> Tensor:
    """Return the places (windows, inside) of each window of a plane, -1 for padding."""
    plane = torch.arange(1, output[1] * output[2] + 1, dtype=torch.float64)
    seen = nn.functional.unfold(
        plane.reshape(1, 1, *output[1:]),
        pool.kernel_size,
        dilation=pool.dilation,
        padding=pool.padding,
        stride=pool.stride,
    )
    return seen[0].T.round().long() - 1


def _plane(layer: ChainLayer) -> int:
    """Return the number of places of one channel of the layer's input."""
    return layer.shape[1] * layer.shape[2]


def _by_channel(dweight: Tensor) -> Tensor:
    """Return dweight `(O, C, *kernel)` as right-hand sides (O k, C)."""
    return dweight.flatten(2).permute(0, 2, 1).flatten(0, 1)
