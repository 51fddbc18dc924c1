"""GradViT. Hatamizadeh, Yin, Roth, Li, Kautz, Xu, Molchanov: Gradient Inversion of Vision Transformers, CVPR 2022.

    minimize over x_1 ... x_S   Gamma(t) d(g(x_s, y), g*) + Upsilon(t) image(x_s) + patches(x_s) + consistency
    image(x)    = tv TV(x) + l2 ||x||^2 + batchnorm BN(x),   BN by an auxiliary CNN: a transformer has no such layers
    patches(x)  = patch_prior mean over patch borders of the differences across them

with d, TV, BN and the consistency of restarts, registered onto each other, as in GradInversion (`fidelity.py`). The
schedule: the gradient's term alone first, then the priors phased in and its weight reduced.

The terms, the order of the phases and 120,000 steps are the paper's (ViT-B/16, 224 px, batches of 8: 15.5 dB). We
could not check its numbers for the share at which the priors come in, the reduction, the rate and the weights:
`start`, `reduced`, `lr` and all weights are ours, found at 32 px (benchmarks/gradvit.py), for means where it sums.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from leakgauge.attacks.fidelity import DISTANCES, Distance, FidelityMatching
from leakgauge.core import Inapplicable, Observation, Plan, image_grid
from leakgauge.core.ranges import Count, Fraction, NonNegative, Positive
from leakgauge.inversion import (
    Direct,
    FeatureStatistics,
    InRange,
    PatchBorders,
    Spectral,
    StepSchedule,
    Term,
)
from leakgauge.inversion.objectives.patches import patch_size

RANGE = 5.0
"""Weight of the public range where no box holds the guess in it."""


@dataclass(frozen=True, kw_only=True, repr=False)
class GradViT(FidelityMatching):
    """Patches of a vision transformer: the gradient alone first, then image, patch and group terms beside it.

    From the share `start` of the steps on the priors count, restarts are held together, and the
    gradient's weight is `reduced` times what it was. `patch`: the side of the patches in pixels, found
    in the model where None. `proxy`: the auxiliary CNN, trained on data like the private, in the
    domain's units; without one, and without BatchNorm in the model, there is no BatchNorm term.
    `coordinates`: what Adam moves, the paper's pixels, kept in [0, 1], or cosine coefficients scaled as
    in natural images. `distance` "relative" is log(1 + cosine distance / 1e-7): on a trained transformer
    it comes nearer in as many steps than the paper's norms.
    The other options are GradInversion's.
    """

    steps: Count = 120_000
    lr: Positive = 0.1
    noise: NonNegative = 0.0
    restarts: Count = 3
    distance: Distance = "layers"
    gradient: NonNegative = 1.0
    tv: NonNegative = 1e-2
    l2: NonNegative = 1e-4
    batchnorm: NonNegative = 1e-2
    patch_prior: NonNegative = 1e-2
    patch: Count | None = None
    coordinates: Literal["pixels", "cosines"] = "pixels"
    start: Fraction = 0.5
    reduced: NonNegative = 0.5

    def prepare(self, observation: Observation) -> Plan | Inapplicable:
        if self.patch_prior > 0 and self.patch is None and image_grid(observation.domain):
            size = self.size(observation)
            if isinstance(size, Inapplicable):
                return size
            return replace(self, patch=size).prepare(observation)
        return super().prepare(observation)

    def size(self, observation: Observation) -> int | Inapplicable:
        """Return the side of the patches in pixels, given or found, or the reason why it is not known."""
        if self.patch is not None:
            return self.patch
        return patch_size(observation.model, observation.domain.shape[0])

    def priors(
        self, observation: Observation, statistics: FeatureStatistics
    ) -> list[tuple[float, Term]]:
        """Return fidelity, and the patch prior if its weight is above 0 and the patches are known."""
        fidelity = super().priors(observation, statistics)
        size = self.size(observation) if self.patch_prior > 0 else Inapplicable("no patch prior")
        if isinstance(size, Inapplicable):
            return fidelity
        return [*fidelity, (self.patch_prior, PatchBorders(size))]

    @property
    def parametrization(self) -> Direct:
        """What the descent moves."""
        if self.coordinates == "cosines":
            return Spectral(center=0.5, noise=0.3)
        return super().parametrization

    def weighted(self, observation: Observation, statistics: FeatureStatistics) -> list[Term]:
        """Return the terms of the objective, weighted by progress."""
        found: list[Term] = []
        if self.gradient > 0:
            found.append(
                StepSchedule(self.gradient, self.reduced * self.gradient, self.start)
                * DISTANCES[self.distance]
            )
        if self.coordinates == "cosines":
            found.append(RANGE * InRange())
        late = [
            (weight, prior) for weight, prior in self.priors(observation, statistics) if weight > 0
        ]
        return [*found, *(StepSchedule(0.0, weight, self.start) * prior for weight, prior in late)]
