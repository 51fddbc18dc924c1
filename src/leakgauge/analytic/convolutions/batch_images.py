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
    Images,
    Imaging,
    Objective,
    Waves,
)
from leakgauge.analytic.convolutions.image import Minimum, minimize_each


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
        objective = self._objective(waves, torch.arange(count))
        best = waves.coefficients(torch.full((count, *self.shape), 0.5).to(self.like))
        values = torch.full((count,), torch.inf).to(self.like)
        spent = 0
        for turn in range(rounds):
            left = ~(values <= CLOSE)
            if not bool(left.any()):
                break
            found, used = self._started_together(objective, waves, best, left, generator)
            spent += used
            for stage, prior in enumerate(PRIORS):
                steps = self.steps * (1 if prior else 3)
                end = _descend(objective, found, prior, steps)
                found, spent = end.inputs[0], spent + end.evaluations
                now = objective(found, 0.0).detach()
                done = (turn + (stage + 1) / len(PRIORS)) / rounds
                self.tell(done, Images(waves.image(found), now, spent))
            if float(now.sum()) < float(values.sum()):
                best, values = found, now
        return Images(waves.image(best), values, spent)

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
            end = _descend(objective, start, PRIORS[0], FIRST)
            spent += end.evaluations
            ends.append((objective(end.inputs[0], PRIORS[0]).detach(), end.inputs[0]))
        values = torch.stack([v for v, _ in ends])
        each = torch.arange(len(best))
        return torch.stack([c for _, c in ends])[values.argmin(0), each], spent


def _descend(objective: Objective, start: Tensor, prior: float, steps: int) -> Minimum:
    """Return a minimum of the sum of the examples' objectives, as one batch of one."""

    def joint(c: Tensor) -> Tensor:
        return objective(c[0], prior).sum()[None]

    return minimize_each(joint, start[None], steps=steps)
