"""The images of a batch whose examples share the statistics of BatchNorm, by one joint least squares.

The activations of one example depend on all images, through the mean and the variance over the batch.
So one descent moves all images. Each example still has an objective of its own, which chooses among
starts.

References:
    Ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from leakgauge.analytic.convolutions.activations import (
    CLOSE,
    FIRST,
    LEVELS,
    PRIORS,
    STARTS,
    Imaging,
)
from leakgauge.analytic.convolutions.contrast import ITERATIONS, STEPS, gauss_newton
from leakgauge.analytic.convolutions.image import Minimum, minimize_each
from leakgauge.analytic.convolutions.search_state import Images
from leakgauge.analytic.convolutions.waves import Objective, WaveObjective, Waves

UNITS = (1.0, 10.0, 30.0, 100.0, 1000.0)
"""Factor of the unknowns in each stage."""
ROUNDS = 2
"""Largest number of starts. A batch that they do not find is hard for further ones, too."""
NEAR = 1e-3
"""Objective of each example below which the images are nearly right."""
EVALUATIONS = 2 * ITERATIONS * (STEPS + 1)
"""Evaluations that the last steps count as, at most."""


@dataclass(frozen=True, eq=False)
class BatchImaging(Imaging):
    """The search for the images of a batch that together have known activations."""

    def run(self, count: int, *, generator: torch.Generator, rounds: int) -> Images:
        """Return the images of `count` examples.

        Args:
            count: Number of examples B.
            generator: Source of the starts.
            rounds: Largest number of times that examples in a local minimum are started again.
        """
        waves = Waves(self.shape[1:], self.like)
        terms = self.known
        objective = WaveObjective(terms, torch.arange(count), waves)
        best = waves.coefficients(torch.full((count, *self.shape), 0.5).to(self.like))
        values = torch.full((count,), torch.inf).to(self.like)
        spent = 0
        rounds = min(rounds, ROUNDS)
        for turn in range(rounds):
            left = ~(values <= CLOSE)
            if not bool(left.any()):
                break
            found, used = self._started_together(objective, waves, best, left, generator)
            spent += used
            for stage, prior in enumerate(PRIORS):
                steps = self.steps * (1 if prior else 3)
                end = _descend(objective, found, prior, steps, UNITS[stage])
                found, spent = end.inputs[0], spent + end.evaluations
                now = objective(found, 0.0).detach()
                done = (turn + (stage + 1) / len(PRIORS)) / rounds
                self.tell(done, Images(waves.image(found), now, spent))
            if float(now.sum()) < float(values.sum()):
                best, values = found, now
        if not bool((values < NEAR).all()):
            return Images(waves.image(best), values, spent)
        return self._finished(best, spent)

    def _finished(self, best: Tensor, spent: int) -> Images:
        """Return the images after steps in float64, which also find the contrast that they share."""
        waves = Waves(self.shape[1:], best.new_zeros((), dtype=torch.float64))
        nodes, entry = [term.node for term in self.terms], self.network.entry
        terms = [term.to(waves.like) for term in self.terms]

        def residual(c: Tensor) -> Tensor:
            given = {entry: self.enter(waves.image(c))}
            values = self.network.evaluate(nodes, given)
            parts = []
            for term in terms:
                gap = values[term.node] - term.aim
                weight = term.weight.reshape(
                    *term.weight.shape, *[1] * (gap.ndim - term.weight.ndim)
                )
                parts.append((gap * weight.sqrt()).flatten())
            return torch.cat(parts)

        plain = waves.coefficients(self._without_contrast(waves.like).expand(best.shape))
        found = gauss_newton(residual, best.double(), lambda c: c - plain, self.beat)
        with torch.no_grad():
            gaps = torch.split(residual(found), [term.aim.numel() for term in terms])
            values = sum(gap.reshape(len(best), -1).square().sum(1) for gap in gaps)
        assert isinstance(values, Tensor)
        return Images(waves.image(found), values, spent + EVALUATIONS)

    def _without_contrast(self, like: Tensor) -> Tensor:
        """Return the image, in unit coordinates, for which the first convolution reads zeros only.

        It is 1/2 if this convolution does not read an affine map of each value of the image.
        """
        plain = torch.full((1, *self.shape), 0.5).to(like)
        source, entry = self.network.convolutions[0].source, self.network.entry
        with torch.no_grad():
            low, high = (
                self.network.evaluate([source], {entry: self.enter(torch.full_like(plain, level))})
                for level in (0.0, 1.0)
            )
        step = high[source] - low[source]
        if step.shape != plain.shape or not bool((step.abs() > 1e-9).all()):
            return plain
        return -low[source] / step

    def _started_together(
        self,
        objective: Objective,
        waves: Waves,
        best: Tensor,
        left: Tensor,
        generator: torch.Generator,
    ) -> tuple[Tensor, int]:
        """Return a start of all examples, and the number of evaluations.

        Several short descents begin at plain images of drawn colors, each with the best images of the
        examples that are found already. Each example takes its own best end.
        """
        spent, ends = 0, list[tuple[Tensor, Tensor]]()
        space = [1] * (len(self.shape) - 1)
        for _ in range(STARTS):
            drawn = torch.rand((len(best), self.shape[0]), generator=generator, dtype=torch.float64)
            plain = LEVELS[0] + (LEVELS[-1] - LEVELS[0]) * drawn.reshape(*drawn.shape, *space)
            noise = torch.randn(best.shape, generator=generator, dtype=torch.float64)
            start = waves.coefficients(plain.expand(best.shape).to(best)) + 0.1 * noise.to(best)
            start = torch.where(left.reshape(-1, 1, *space), start, best)
            end = _descend(objective, start, PRIORS[0], FIRST, UNITS[0])
            spent += end.evaluations
            ends.append((objective(end.inputs[0], PRIORS[0]).detach(), end.inputs[0]))
        values = torch.stack([v for v, _ in ends])
        each = torch.arange(len(best))
        return torch.stack([c for _, c in ends])[values.argmin(0), each], spent


def _descend(objective: Objective, start: Tensor, prior: float, steps: int, unit: float) -> Minimum:
    """Return a minimum of the sum of the examples' objectives, as one batch of one.

    The first step of a descent is long, in proportion to the unknowns. They are multiplied by `unit`,
    so that it is short if the start is nearly right.
    """

    def joint(c: Tensor) -> Tensor:
        return objective(c[0] / unit, prior).sum()[None]

    end = minimize_each(joint, unit * start[None], steps=steps)
    return Minimum(end.inputs / unit, end.values, end.evaluations)
