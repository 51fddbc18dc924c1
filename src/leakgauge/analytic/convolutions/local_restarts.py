"""Restarts of the part of an image that a descent got wrong.

At a local minimum, most of an image is right. The activations that it fails to give lie in one region.
So several images are started, each with another content there, and the best end is kept.

References:
    Ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d, avg_pool2d, avg_pool3d, interpolate

from leakgauge.analytic.convolutions.image import Minimum, minimize_each
from leakgauge.analytic.convolutions.terms import Terms
from leakgauge.analytic.convolutions.waves import WaveObjective, Waves

TRIALS, AT_ONCE = 8, 64
"""Number of starts of each example, and of all examples together."""
STAGES = ((1e-5, 0.05), (1e-6, 0.0))
"""Weight of the prior and softness of each stage."""
STEPS = 25
"""Number of steps of each stage."""
EVALUATIONS = TRIALS * len(STAGES) * (STEPS + 1)
"""Evaluations of one example's restarts, without halved steps."""
RADII = (1 / 16, 1 / 5)
"""Range of half the width of a region, relative to the image's."""
BLUR = 5
"""Width of the mean over places whose misfit chooses a region."""
POOLS = {1: avg_pool1d, 2: avg_pool2d, 3: avg_pool3d}


@dataclass(frozen=True, eq=False)
class LocalRestarts:
    """Restarts of parts of images.

    Args:
        terms: The terms of all examples.
        which: Indices (n,) of the examples.
        waves: The waves, in the type of the search.
    """

    terms: Terms
    which: Tensor
    waves: Waves

    @property
    def trials(self) -> int:
        """Number K of starts of each example."""
        return max(2, min(TRIALS, AT_ONCE // len(self.which)))

    def run(self, found: Tensor, generator: torch.Generator) -> Minimum:
        """Return the best ends, or the images as they were where no end is better.

        Args:
            found: Coefficients of waves `(n, C, *size)`.
            generator: Source of the regions and their contents.
        """
        count, trials = len(found), self.trials
        unit = self.waves.image(found)
        energy = self.misfits(unit)
        starts = torch.stack(
            [
                refilled(unit[i], energy[i], kind, generator)
                for i in range(count)
                for kind in range(trials)
            ]
        )
        objective = WaveObjective(self.terms, self.which.repeat_interleave(trials), self.waves)
        ends, spent = self.waves.coefficients(starts), 0
        for prior, width in STAGES:
            smooth = partial(replace(objective, softness=width), prior=prior)
            end = minimize_each(smooth, ends, steps=STEPS)
            ends, spent = end.inputs, spent + end.evaluations * trials
        with torch.no_grad():
            values = objective(ends, 0.0).reshape(count, trials)
            before = WaveObjective(self.terms, self.which, self.waves)(found, 0.0)
        best = ends.reshape(count, trials, *found.shape[1:])[torch.arange(count), values.argmin(1)]
        after = values.min(1).values
        better = after < before
        spread = better.reshape(-1, *[1] * (found.ndim - 1))
        return Minimum(torch.where(spread, best, found), torch.where(better, after, before), spent)

    def misfits(self, unit: Tensor) -> Tensor:
        """Return the misfit of the activations at each place of images `(n, C, *size)`, as `(n, *size)`."""
        size = unit.shape[2:]
        total = torch.full((len(unit), 1, *size), torch.finfo(unit.dtype).tiny).to(unit)
        typed = self.terms.to(self.which, unit)
        with torch.no_grad():
            residuals = typed.residuals(unit)
        for term, residual in zip(typed.terms, residuals, strict=True):
            if term.matrix is None and term.aim.ndim == unit.ndim:
                squares = residual.square().reshape(len(unit), *term.aim.shape[1:])
                total = total + interpolate(squares.sum(1, keepdim=True), size=size)
        width = min(BLUR, *size) // 2 * 2 - 1
        return POOLS[len(size)](total, max(width, 1), 1, max(width, 1) // 2)[:, 0]


def refilled(unit: Tensor, energy: Tensor, kind: int, generator: torch.Generator) -> Tensor:
    """Return an image with another content of a region, drawn where the misfit is large.

    Args:
        unit: An image `(C, *size)`.
        energy: The misfit at each place, `(*size)`.
        kind: 0 for the region's mean and noise, 1 for a drawn color, 2 for inversion about the mean,
            each modulo 3.
        generator: Source of the region and its content.
    """
    share = (energy.double() / energy.double().max()).square().flatten()
    place = int(torch.multinomial(share, 1, generator=generator))
    box = [slice(None)]
    for length, center in zip(
        unit.shape[1:], torch.unravel_index(torch.tensor(place), energy.shape), strict=True
    ):
        low, high = (max(1, round(radius * length)) for radius in RADII)
        half = int(torch.randint(low, high + 1, (1,), generator=generator))
        box.append(slice(max(int(center) - half, 0), int(center) + half + 1))
    region = unit[tuple(box)]
    space = [1] * (unit.ndim - 1)
    mean = region.flatten(1).mean(1).reshape(-1, *space)
    noise = torch.randn(region.shape, generator=generator, dtype=torch.float64).to(unit)
    color = torch.rand((len(unit), *space), generator=generator, dtype=torch.float64).to(unit)
    new = (mean + 0.05 * noise, color.expand_as(region), 2 * mean - region)[kind % 3]
    out = unit.clone()
    out[tuple(box)] = new
    return out
