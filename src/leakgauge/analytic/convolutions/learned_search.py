"""The search for images from learned starts.

A search ends, and its end is a better guess. A decoder that learns more in the neighborhood of this guess
makes a better start, from which a search ends closer to the image. This repeats.

References:
    Ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from leakgauge.analytic.convolutions.image import HALVINGS, Minimum, minimize_each
from leakgauge.analytic.convolutions.learned_start import MORE, TRAINING, LearnedStart
from leakgauge.analytic.convolutions.least_squares import MOST, finished
from leakgauge.analytic.convolutions.terms import ForSome, Terms
from leakgauge.analytic.convolutions.waves import WaveObjective, Waves

STAGES = ((1e-4, 0.1), (1e-5, 0.05), (1e-6, 0.02), (0.0, 0.0))
"""Weight of the prior and width of the softplus in each stage."""
LONGER = 3
"""Steps of each stage, in units of those behind an ordinary start."""
AGAIN = 2
"""Number of further starts."""
LEAST = 0.5
"""Fraction of the objective to which least squares must come."""

Told = Callable[[float, Tensor, Tensor, int], None]
"""What receives the fraction done, the images, their objectives, and the number of evaluations."""


def most_learned(steps: int) -> int:
    """Return the largest number of evaluations, with this many steps of each stage of an ordinary search."""
    each = (HALVINGS + 1) * len(STAGES) * LONGER * steps + MOST
    return TRAINING + AGAIN * MORE + (1 + AGAIN) * each


@dataclass(frozen=True, eq=False)
class LearnedSearch:
    """The search for the images of some examples.

    Args:
        terms: The terms of all examples.
        which: Indices (n,) of these examples.
        waves: The waves, in the type of the search.
        steps: Number of steps of each stage of an ordinary search.
        close: Objective below which an image counts as that of its activations.
    """

    terms: Terms
    which: Tensor
    waves: Waves
    steps: int
    close: float

    def run(
        self, shape: tuple[int, ...], color: Tensor | None, generator: torch.Generator, tell: Told
    ) -> Minimum | None:
        """Return the images, or None if the training does not suit the terms.

        Args:
            shape: Shape `(C, *size)` of one example.
            color: Mean (C,) of the images over places, or None.
            generator: Source of the training.
            tell: Receives the state.
        """
        training = LearnedStart(self.terms, shape, self.which, generator, color)
        start = training.first()
        if start is None:
            return None
        best = self._from(start, torch.arange(len(start)), TRAINING)
        for turn in range(AGAIN):
            tell((1 + turn) / (1 + AGAIN), best.inputs, best.values, best.evaluations)
            left = (best.values > self.close).nonzero()[:, 0]
            if not len(left):
                break
            start = training.again(best.inputs[left], left)
            end = self._from(start, left, best.evaluations + MORE)
            better = end.values < best.values[left]
            chosen = left[better]
            best.inputs[chosen], best.values[chosen] = end.inputs[better], end.values[better]
            best = replace(best, evaluations=end.evaluations)
        return best

    def _from(self, start: Tensor, left: Tensor, spent: int) -> Minimum:
        """Return the images of some of the examples from starts `(n, C, *size)`, with all evaluations."""
        which = self.which[left]
        objective = WaveObjective(self.terms, which, self.waves)
        found = self.waves.coefficients(start.to(self.waves.like))
        for prior, width in STAGES:
            smooth = partial(replace(objective, softness=width), prior=prior)
            end = minimize_each(smooth, found, steps=LONGER * self.steps)
            found, spent = end.inputs, spent + end.evaluations
        reached = Minimum(self.waves.image(found), end.values, spent)
        return finished(ForSome(self.terms, which), reached, self.close, LEAST)
