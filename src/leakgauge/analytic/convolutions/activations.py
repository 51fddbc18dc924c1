"""The image of each example that has known activations, by least squares.

Three kinds of terms tell the image x of one example. Here u(x) is the value of a node:

- *values*: `|u(x) - a|^2` for a node whose value a is known;
- *entries*: the same, for the entries that are known;
- *gradients*: `|A u(x) - dW|^2` for an input u of a convolution with known signals. Only for a batch
  of one, since a gradient sums over the batch.

Behind ReLUs the sum has local minima in which parts of the image are inverted. So each example is
started from several colors, and its own objective chooses. The image is a sum of waves whose
amplitudes fall with their frequency, so that coarse parts come first.

References:
    Ours.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, fx

from leakgauge.analytic.convolutions.image import minimize_each
from leakgauge.analytic.convolutions.network import Network

LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Values of the channels of plain images from which descents start."""
STARTS, FIRST = 4, 25
"""Number of starts of each example, and of the steps after which the best one goes on."""
PRIORS = (1e-2, 1e-3, 1e-4, 1e-6, 0.0)
"""Weights of the prior, stage by stage."""
CLOSE = 1e-5
"""Objective below which an image counts as that of its activations, not as a local minimum."""


class Objective(Protocol):
    """The objective of some examples."""

    def __call__(self, c: Tensor, prior: float) -> Tensor:
        """Return the values (n,) at coefficients of waves, with this weight of the prior."""
        ...


@dataclass(frozen=True, eq=False)
class Term:
    """One term of the objective.

    Args:
        node: The node u.
        aim: Its values a `(B, ...)`, or the right side (rows, C) of gradient equations.
        weight: Weights (B,), or (B, ...) for known entries.
        matrix: The matrix A (rows, N) of gradient equations, or None.
    """

    node: fx.Node
    aim: Tensor
    weight: Tensor
    matrix: Tensor | None = None

    def loss(self, value: Tensor) -> Tensor:
        """Return the term (n,) of each image, from values (n, ...) of the node."""
        if self.matrix is None:
            gap = value - self.aim
            if self.weight.ndim > 1:
                return (gap.square() * self.weight).flatten(1).sum(1)
            return gap.square().flatten(1).sum(1) * self.weight
        product = torch.einsum("rn,bcn->brc", self.matrix, value.flatten(2))
        return (product - self.aim).square().flatten(1).sum(1) * self.weight

    def of(self, which: Tensor) -> Term:
        """Return the term of some examples, by their indices."""
        if self.matrix is not None:
            return self
        return Term(self.node, self.aim[which], self.weight[which])

    def to(self, like: Tensor) -> Term:
        """Return the term in another type."""
        matrix = None if self.matrix is None else self.matrix.to(like)
        return Term(self.node, self.aim.to(like), self.weight.to(like), matrix)


@dataclass(frozen=True, eq=False)
class Waves:
    """Images as sums of cosine waves, with amplitudes that fall with the frequency.

    Args:
        size: The image's size along each axis.
        like: A tensor of the type and device.
    """

    size: tuple[int, ...]
    like: Tensor

    def amplitudes(self) -> Tensor:
        """Return the amplitude of each wave, `(*size)`."""
        squares = torch.zeros(self.size).to(self.like)
        for axis, length in enumerate(self.size):
            shape = [-1 if i == axis else 1 for i in range(len(self.size))]
            squares = squares + torch.arange(length).to(self.like).reshape(shape).square()
        return 1 / (1 + squares.sqrt())

    def image(self, waves: Tensor) -> Tensor:
        """Return images `(n, C, *size)` around 1/2 from coefficients of the same shape."""
        found = waves * self.amplitudes()
        for length in self.size:  # Each product moves its axis behind the others.
            found = torch.tensordot(found, self._matrix(length), ([2], [0]))
        return found + 0.5

    def coefficients(self, images: Tensor) -> Tensor:
        """Return the coefficients of images `(n, C, *size)`."""
        found = images - 0.5
        for length in self.size:
            found = torch.tensordot(found, self._matrix(length), ([2], [1]))
        return found / self.amplitudes()

    def _matrix(self, length: int) -> Tensor:
        """Return the orthonormal cosine transform (length, length): row k is wave k."""
        k = torch.arange(length, dtype=torch.float64)[:, None]
        matrix = torch.cos(math.pi * (torch.arange(length) + 0.5) * k / length)
        matrix = matrix * math.sqrt(2 / length)
        matrix[0] /= math.sqrt(2)
        return matrix.to(self.like)


@dataclass(frozen=True, eq=False)
class Images:
    """Images that have known activations.

    Args:
        unit: (B, C, ...), in unit coordinates.
        objectives: (B,), relative squared distance of the activations.
        evaluations: Number of evaluations of the whole batch.
    """

    unit: Tensor
    objectives: Tensor
    evaluations: int


@dataclass(frozen=True, eq=False)
class Imaging:
    """The search for images with known activations.

    Args:
        network: The network.
        enter: Map from unit coordinates to the network's input.
        terms: The terms of the objective. The sum is about 1 for a gray image.
        shape: Shape `(C, *size)` of one example.
        like: A tensor of the type and device of the search.
        steps: Number of steps of each stage.
        tell: Receives the fraction of the search that is done, and the images so far.
    """

    network: Network
    enter: Callable[[Tensor], Tensor]
    terms: Sequence[Term]
    shape: tuple[int, ...]
    like: Tensor
    steps: int
    tell: Callable[[float, Images], None] = lambda fraction, images: None

    def run(self, count: int, *, generator: torch.Generator, rounds: int) -> Images:
        """Return the image of each of `count` examples.

        Args:
            count: Number of examples B.
            generator: Source of the starts.
            rounds: Largest number of times that examples in a local minimum are started again.
        """
        waves = Waves(self.shape[1:], self.like)
        everyone = torch.arange(count)
        best = waves.coefficients(torch.full((count, *self.shape), 0.5).to(self.like))
        values = torch.full((count,), torch.inf).to(self.like)
        spent = 0
        for turn in range(rounds):
            left = everyone[~(values[everyone] <= CLOSE)]
            if not len(left):
                break
            objective = self._objective(waves, left)
            found, used = self._started(objective, waves, left, turn, generator)
            spent += used
            for stage, prior in enumerate(PRIORS):
                steps = self.steps * (1 if prior else 3)
                end = minimize_each(partial(objective, prior=prior), found, steps=steps)
                found, spent = end.inputs, spent + end.evaluations
                now, after = best.clone(), values.clone()
                now[left], after[left] = found, end.values
                done = (turn + (stage + 1) / len(PRIORS)) / rounds
                self.tell(done, Images(waves.image(now), after, spent))
            after = objective(found, 0.0)
            better = after < values[left]
            best[left[better]], values[left[better]] = found[better], after[better]
        return Images(waves.image(best), values, spent)

    def _objective(self, waves: Waves, which: Tensor) -> Objective:
        """Return the objective of some examples: from coefficients and the prior's weight to values."""
        state: Mapping[str, Tensor] = {
            name: t.to(self.like) if t.is_floating_point() else t
            for name, t in self.network.state.items()
        }
        terms = [term.of(which).to(self.like) for term in self.terms]
        nodes = [term.node for term in terms]

        def objective(c: Tensor, prior: float) -> Tensor:
            unit = waves.image(c)
            values = self.network.evaluate(nodes, {self.network.entry: self.enter(unit)}, state)
            total = torch.stack([term.loss(values[term.node]) for term in terms]).sum(0)
            outside = (unit - unit.clamp(0, 1)).square().flatten(1).mean(1)
            return total + prior * (c.square().flatten(1).mean(1) + 10 * outside)

        return objective

    def _started(
        self,
        objective: Objective,
        waves: Waves,
        which: Tensor,
        turn: int,
        generator: torch.Generator,
    ) -> tuple[Tensor, int]:
        """Return the best of several short descents of each example, and the number of evaluations."""
        channels = self.shape[0]
        colors = [[level] * channels for level in LEVELS]
        if channels in (2, 3):
            colors += [list(c) for c in itertools.product((0.15, 0.5, 0.85), repeat=channels)]
        plain = torch.tensor(colors).to(self.like)
        space = [1] * (len(self.shape) - 1)
        scored = []
        with torch.no_grad():
            for color in plain:
                image = color.reshape(1, channels, *space).expand(len(which), *self.shape)
                scored.append(objective(waves.coefficients(image), 0.0))
        order = torch.stack(scored).argsort(0)[turn * STARTS % len(plain) :][:STARTS]
        spent, ends = len(plain), list[tuple[Tensor, Tensor]]()
        for rank in order:
            image = plain[rank].reshape(len(which), channels, *space).expand(-1, *self.shape)
            noise = torch.randn((len(which), *self.shape), generator=generator, dtype=torch.float64)
            start = waves.coefficients(image) + (0.02 + 0.3 * min(turn, 3)) * noise.to(self.like)
            end = minimize_each(partial(objective, prior=PRIORS[0]), start, steps=FIRST)
            spent += end.evaluations
            ends.append((end.values, end.inputs))
        values = torch.stack([v for v, _ in ends])
        return torch.stack([c for _, c in ends])[values.argmin(0), torch.arange(len(which))], spent
