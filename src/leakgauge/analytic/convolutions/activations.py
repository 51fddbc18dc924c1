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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from leakgauge.analytic.convolutions.gradient_below import GradientBelow
from leakgauge.analytic.convolutions.image import HALVINGS, Minimum, minimize_each
from leakgauge.analytic.convolutions.learned_search import LEAST, LearnedSearch, most_learned
from leakgauge.analytic.convolutions.least_squares import MATCHED, MOST, finished
from leakgauge.analytic.convolutions.local_restarts import EVALUATIONS as MEND_EVALUATIONS
from leakgauge.analytic.convolutions.local_restarts import LocalRestarts
from leakgauge.analytic.convolutions.network import Network
from leakgauge.analytic.convolutions.pool_homotopy import (
    REFINED,
    WIDTHS,
    PoolHomotopy,
    pool_outputs,
)
from leakgauge.analytic.convolutions.search_state import Images, State, Tell
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
MENDS, FALLEN = 8, 0.98
"""Largest number of local restarts of a round, and the fraction of the objective to which one must come."""
PARTS = len(PRIORS) + MENDS + 1
"""Number of parts of a round."""
LARGE = 2**15
"""Number of values of an image above which one start is tried, without exact steps at the end."""
CLOSE = 1e-5
"""Objective below which an image counts as that of its activations, not as a local minimum."""
ABOVE = 2.0
"""The same, in units of the objective that errors of the activations leave."""


def most_evaluations(steps: int) -> int:
    """Return the largest number of evaluations of one round, with this many steps of each stage."""
    halved, colors = HALVINGS + 1, len(LEVELS) + 27
    stages = (
        halved * (STARTS * FIRST + max(len(PRIORS), len(WIDTHS) + len(REFINED)) * steps) + colors
    )
    return max(stages + MOST, most_learned(steps)) + MENDS * (halved * MEND_EVALUATIONS + MOST)


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
        color: Mean (C,) of the images over places, or None.
        below: The gradient below the max pool whose outputs are the first term, for a batch of one.
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
    color: Tensor | None = None
    below: GradientBelow | None = None

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
        return PoolHomotopy(self.network, self.enter, outputs, self.below, self.beat)

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
            if self._ends_early(left, end.inputs):
                break
        return Images(best, values, spent)

    def _round(self, which: Tensor, turn: int, generator: torch.Generator, tell: Tell) -> Minimum:
        """Return images of some examples: a start, the stages of the prior, and least squares at the end."""
        waves, terms = Waves(self.shape[1:], self.like), self.known
        behind = None if turn else self.behind
        best, least = (self._learned(which, generator, tell) if turn else None), LEAST
        if best is not None:
            found = waves.coefficients(best.inputs.to(self.like))
        else:
            if behind is None:
                end = self._staged(waves, which, turn, generator, tell)
            else:
                end = self._behind_pool(behind, waves, which, tell)
            found, least = end.inputs, MATCHED
            best = Minimum(waves.image(found), end.values, end.evaluations)
            if self._ends_early(which, best.inputs):
                return Minimum(best.inputs.double(), best.values.double(), best.evaluations)
            best = finished(ForSome(terms, which), best, self.close, least)
        return self._mended(which, found, best, least, generator, tell)

    def _ends_early(self, which: Tensor, unit: Tensor) -> bool:
        """Return whether exact steps are of no use: for large images, and where a max pool shows too little."""
        if unit[0].numel() > LARGE:
            return True
        behind = self.behind
        return behind is not None and not bool(behind.determined(which, unit).any())

    def _mended(
        self,
        which: Tensor,
        found: Tensor,
        best: Minimum,
        least: float,
        generator: torch.Generator,
        tell: Tell,
    ) -> Minimum:
        """Return images after local restarts.

        Args:
            which: Indices (n,) of the examples.
            found: Coefficients of the images from which the restarts begin.
            best: The best images so far.
            least: Fraction of the objective to which least squares must come.
            generator: Source of the restarts.
            tell: Receives the state.
        """
        waves, terms, spent = Waves(self.shape[1:], self.like), self.known, best.evaluations
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
                ends = finished(ForSome(terms, which[left]), now, self.close, least)
                best.inputs[left], best.values[left] = ends.inputs, ends.values
                spent += ends.evaluations
        return Minimum(best.inputs, best.values, spent)

    def _learned(self, which: Tensor, generator: torch.Generator, tell: Tell) -> Minimum | None:
        """Return images of some examples from learned starts, or None if there are none."""

        def told(done: float, unit: Tensor, objectives: Tensor, used: int) -> None:
            tell(done * len(PRIORS) / PARTS, unit, objectives, used)

        waves = Waves(self.shape[1:], self.like)
        search = LearnedSearch(self.known, which, waves, self.steps, self.close)
        return search.run(self.shape, self.color, generator, told)

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
        if math.prod(self.shape) > LARGE:
            image = plain[order[0]].reshape(len(which), channels, *space)
            return waves.coefficients(image.expand(-1, *self.shape)), spent
        for rank in order:
            image = plain[rank].reshape(len(which), channels, *space).expand(-1, *self.shape)
            noise = torch.randn((len(which), *self.shape), generator=generator, dtype=torch.float64)
            start = waves.coefficients(image) + (0.02 + 0.3 * min(turn, 3)) * noise.to(self.like)
            end = minimize_each(partial(objective, prior=PRIORS[0]), start, steps=FIRST)
            spent += end.evaluations
            ends.append((end.values, end.inputs))
        values = torch.stack([v for v, _ in ends])
        return torch.stack([c for _, c in ends])[values.argmin(0), torch.arange(len(which))], spent
