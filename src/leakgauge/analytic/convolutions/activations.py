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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from leakgauge.analytic.convolutions.image import HALVINGS, Minimum, minimize_each
from leakgauge.analytic.convolutions.least_squares import FRACTIONS, solve_each
from leakgauge.analytic.convolutions.local_restarts import EVALUATIONS as MEND_EVALUATIONS
from leakgauge.analytic.convolutions.local_restarts import LocalRestarts
from leakgauge.analytic.convolutions.network import Network
from leakgauge.analytic.convolutions.pool_homotopy import (
    WIDTHS,
    PoolHomotopy,
    pool_outputs,
)
from leakgauge.analytic.convolutions.terms import ForSome, Term, Terms
from leakgauge.analytic.convolutions.waves import Objective, WaveObjective, Waves
from leakgauge.core.pulse import Beat, quiet

LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Values of the channels of plain images from which descents start."""
STARTS, FIRST = 4, 25
"""Number of starts of each example, and of the steps after which the best one goes on."""
PRIORS = (1e-2, 1e-3, 1e-4, 1e-6, 0.0)
"""Weights of the prior, stage by stage."""
SOFTNESS = (0.2, 0.1, 0.05, 0.02, 0.0)
"""Widths of the softplus that replaces each ReLU, stage by stage. Smooth functions have fewer local minima."""
SQUARES, INNER = 25, 100
"""Number of steps of least squares at the end, and of conjugate gradient iterations of each."""
MATCHED = 0.1
"""Fraction of the objective to which least squares must come."""
MENDS, FALLEN = 8, 0.98
"""Largest number of local restarts of a round, and the fraction of the objective to which one must come."""
PARTS = len(PRIORS) + MENDS + 1
"""Number of parts of a round."""
CLOSE = 1e-5
"""Objective below which an image counts as that of its activations, not as a local minimum."""
ABOVE = 2.0
"""The same, in units of the objective that errors of the activations leave."""


def most_evaluations(steps: int) -> int:
    """Return the largest number of evaluations of one round, with this many steps of each stage."""
    halved, colors = HALVINGS + 1, len(LEVELS) + 27
    stages = halved * (STARTS * FIRST + max(len(PRIORS), len(WIDTHS)) * steps) + colors
    squares = SQUARES * (INNER + len(FRACTIONS)) + 1
    return stages + squares + MENDS * (halved * MEND_EVALUATIONS + squares)


class Tell(Protocol):
    """What receives the state of a search."""

    def __call__(self, done: float, unit: Tensor, objectives: Tensor, used: int) -> None:
        """Receive the fraction done, the images, their objectives, and the number of evaluations."""
        ...


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
class State:
    """The state of a search at the start of a round.

    Args:
        left: The examples (n,) that the round searches.
        unit: The best images so far `(B, C, ...)`.
        objectives: Their objectives (B,).
        spent: Number of evaluations.
        done: Fraction of the search that is done.
        share: Fraction that the round takes.
    """

    left: Tensor
    unit: Tensor
    objectives: Tensor
    spent: int
    done: float
    share: float

    def tell(
        self,
        receive: Callable[[float, Images], None],
        done: float,
        unit: Tensor,
        objectives: Tensor,
        used: int,
    ) -> None:
        """Tell the images of all examples, with the present ones of the round."""
        now, after = self.unit.clone(), self.objectives.clone()
        now[self.left], after[self.left] = unit.double(), objectives.double()
        receive(self.done + self.share * done, Images(now, after, self.spent + used))


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
        beat: Called in each evaluation.
        floor: Objective that errors of the activations leave.
    """

    network: Network
    enter: Callable[[Tensor], Tensor]
    terms: Sequence[Term]
    shape: tuple[int, ...]
    like: Tensor
    steps: int
    tell: Callable[[float, Images], None] = lambda fraction, images: None
    beat: Beat = quiet
    floor: float = 0.0

    @property
    def close(self) -> float:
        """Objective below which an image counts as that of its activations."""
        return max(CLOSE, ABOVE * self.floor)

    @property
    def known(self) -> Terms:
        """The terms as functions of images."""
        return Terms(self.network, self.enter, self.terms, self.beat)

    @property
    def behind(self) -> PoolHomotopy | None:
        """The search behind a max pool, if its exact outputs are the first term."""
        outputs = pool_outputs(self.terms[0]) if self.terms and not self.floor else None
        if outputs is None:
            return None
        return PoolHomotopy(self.network, self.enter, outputs, self.beat)

    def run(self, count: int, *, generator: torch.Generator, rounds: int) -> Images:
        """Return the image of each of `count` examples.

        Args:
            count: Number of examples B.
            generator: Source of the starts.
            rounds: Largest number of times that examples in a local minimum are started again.
        """
        everyone = torch.arange(count)
        best = torch.full((count, *self.shape), 0.5, dtype=torch.float64)
        values = torch.full((count,), torch.inf, dtype=torch.float64)
        spent = 0
        for turn in range(rounds):
            left = everyone[~(values <= self.close)]
            if not len(left):
                break

            state = State(left, best, values, spent, turn / rounds, 1 / rounds)
            end = self._round(left, turn, generator, partial(state.tell, self.tell))
            spent += end.evaluations
            better = end.values < values[left]
            best[left[better]], values[left[better]] = end.inputs[better], end.values[better]
        return Images(best, values, spent)

    def _round(self, which: Tensor, turn: int, generator: torch.Generator, tell: Tell) -> Minimum:
        """Return images of some examples: a start, the stages of the prior, and least squares at the end."""
        waves, terms = Waves(self.shape[1:], self.like), self.known
        behind = None if turn else self.behind
        if behind is None:
            end = self._staged(waves, which, turn, generator, tell)
        else:
            end = self._behind_pool(behind, waves, which, tell)
        found, spent = end.inputs, end.evaluations
        start = Minimum(waves.image(found), end.values, 0)
        if behind is not None and not bool(behind.determined(which, start.inputs).any()):
            return Minimum(start.inputs.double(), start.values.double(), spent)
        best = _finished(ForSome(terms, which), start, self.close)
        spent += best.evaluations
        for mend in range(MENDS):
            tell((len(PRIORS) + 1 + mend) / PARTS, best.inputs, best.values, spent)
            left = (best.values > self.close).nonzero()[:, 0]
            if not len(left):
                break
            mended = LocalRestarts(terms, which[left], waves).run(found[left], generator)
            better = mended.values < FALLEN * best.values[left]
            found[left] = mended.inputs
            now, left = (
                Minimum(waves.image(mended.inputs[better]), mended.values[better], 0),
                left[better],
            )
            spent += mended.evaluations
            if len(left):
                ends = _finished(ForSome(terms, which[left]), now, self.close)
                best.inputs[left], best.values[left] = ends.inputs, ends.values
                spent += ends.evaluations
        return Minimum(best.inputs, best.values, spent)

    def _staged(
        self, waves: Waves, which: Tensor, turn: int, generator: torch.Generator, tell: Tell
    ) -> Minimum:
        """Return the coefficients at the end of the stages of the prior, with softened ReLUs."""
        objective = WaveObjective(self.known, which, waves)
        found, spent = self._started(objective, waves, which, turn, generator)
        for stage, (prior, width) in enumerate(zip(PRIORS, SOFTNESS, strict=True)):
            smooth = partial(replace(objective, softness=width), prior=prior)
            end = minimize_each(smooth, found, steps=self.steps)
            found, spent = end.inputs, spent + end.evaluations
            tell((1 + stage) / PARTS, waves.image(found), end.values, spent)
        return Minimum(found, end.values, spent)

    def _behind_pool(
        self, behind: PoolHomotopy, waves: Waves, which: Tensor, tell: Tell
    ) -> Minimum:
        """Return the coefficients that the outputs of a max pool tell, with the values of the objective."""
        objective = WaveObjective(self.known, which, waves)
        start = torch.zeros((len(which), *self.shape)).to(self.like)

        def values(found: Minimum) -> Tensor:
            with torch.no_grad():
                return objective(found.inputs, 0.0)

        def told(done: float, found: Minimum) -> None:
            stage = done * len(PRIORS) / PARTS
            tell(stage, waves.image(found.inputs), values(found), found.evaluations)

        end = behind.run(which, waves, start, steps=self.steps, tell=told)
        return Minimum(end.inputs, values(end), end.evaluations)

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


def _finished(residuals: ForSome, start: Minimum, close: float) -> Minimum:
    """Return the end of least squares from some images, or these where it finds no match.

    At a local minimum, steps without a prior only carry noise into the image.
    """
    end = solve_each(residuals, start.inputs, steps=SQUARES, inner=INNER)
    matched = (end.values < MATCHED * start.values) | (end.values < close)
    spread = matched.reshape(-1, *[1] * (end.inputs.ndim - 1))
    return Minimum(
        torch.where(spread, end.inputs, start.inputs.double()),
        torch.where(matched, end.values, start.values.double()),
        end.evaluations,
    )
