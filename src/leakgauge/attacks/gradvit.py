"""GradViT: gradient inversion of vision transformers."""

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
"""Weight of the distance to the public range, if no box keeps the examples in it."""


@dataclass(frozen=True, kw_only=True, repr=False)
class GradViT(FidelityMatching):
    r"""Match gradients of a vision transformer, first alone, then with image, patch and group priors.

    Use it on vision transformers and images. It needs many steps: the paper takes 120,000 for
    ViT-B/16 on batches of 8 images of 224 pixels.

    .. math::

        \min_{x_1, \dots, x_S} \; \sum_s \Big( &\Gamma(t) \, \gamma \, d(g(x_s, y), g^*) \\
        &+ \Upsilon(t) \left( F(x_s) + \pi \, P(x_s) \right)
        + \kappa \, \|x_s - E(x_1, \dots, x_S)\|^2 \Big)

    Here :math:`x_s` is the batch of restart s, of S restarts. The simulated gradient is
    :math:`g(x_s, y)` and the observed one :math:`g^*`. Two schedules depend on the step :math:`t`.
    The schedule :math:`\Gamma` falls from 1 to `reduced`, and :math:`\Upsilon` rises from 0 to 1.
    Both change at the fraction `start` of the steps. Group consistency begins there, too. The term
    :math:`F` has the image priors of `GradInversion`: total variation, squared norm and BatchNorm
    statistics. The term :math:`P` is the mean difference across borders of patches. The weights
    :math:`\gamma`, :math:`\pi` and :math:`\kappa` are `gradient`, `patch_prior` and `consistency`,
    and :math:`E` is the mean of the restarts.

    The terms, the order of the phases and the number of steps are the paper's. We could not check
    its other numbers. So `start`, `reduced`, `lr` and all weights are ours, found on images of 32
    pixels (`benchmarks/gradvit.py`). Our priors are means, where the paper has sums, so weights of
    the paper do not fit here.

    Args:
        steps: Number of steps, at least 1. The default is the paper's.
        lr: Largest step size of Adam, above 0, in units of 0.25 of the range. The default is ours.
        warmup: Number of steps, at least 1, in which the step size rises. The default is ours.
        noise: Standard deviation of Langevin noise, at least 0, in units of the step size. The
            default adds no noise.
        restarts: Number of restarts S, at least 1. The default is ours.
        distance: "layers" sums the norm of each tensor's difference, as the paper does. "balanced"
            is the squared distance with a weight for each layer. "cosine" is the cosine distance D,
            and "relative" is log(1 + D / 1e-7). On a trained transformer, "relative" comes nearer
            than "layers" in the same number of steps.
        gradient: Weight of the distance, at least 0. The default is ours.
        tv: Weight of total variation, at least 0. The default is ours.
        variation: Name of the total variation: "anisotropic", "isotropic" or "color".
        l2: Weight, at least 0, of the mean squared distance to the middle of the range. The default
            is ours.
        batchnorm: Weight of the BatchNorm term, at least 0. The default is ours.
        proxy: The auxiliary convolutional network of the BatchNorm term, in the domain's units. It
            is trained on data like the private data. None: the model itself. Without BatchNorm in
            either, there is no BatchNorm term.
        public: Images `(N, *shape)` that the adversary owns, in the domain's units. The term then
            compares the features of the batch with those of the images, at the proxy or the model.
            This network then needs no BatchNorm.
        group: "none", "lazy" or "registered". "lazy" pulls each restart toward the mean of all.
            "registered" first warps each image onto that mean, by optical flow.
        consistency: Weight of group consistency, at least 0. The default is ours.
        start: Fraction of the steps, at least 0 and below 1, at which the priors begin. The default
            is ours.
        every: Number of steps, at least 1, until the mean of the restarts is computed again. The
            default is ours.
        patch_prior: Weight of the differences across borders of patches, at least 0. The default is
            ours.
        patch: Side of the patches in pixels, at least 1. None: the attack finds it in the model.
        coordinates: Variables of Adam. "pixels" is the paper's choice, with values kept in [0, 1].
            "cosines" are cosine coefficients, scaled as in natural images.
        reduced: Factor of the gradient's weight after `start`, at least 0. The default is ours.

    References:
        Hatamizadeh, Yin, Roth, Li, Kautz, Xu, Molchanov. GradViT: Gradient Inversion of Vision
        Transformers. CVPR 2022. arXiv:2203.11894.

    Example:
        >>> import leakgauge as lg
        >>> domain = lg.ImageDomain(1, 8, 8)
        >>> model = lg.models.build(lg.models.vit, domain, 10, patch=4, dim=32, heads=2)
        >>> observation = lg.examples.observation(model=model)
        >>> attack = lg.attacks.GradViT(steps=20, restarts=1)
        >>> attack(observation, seeds=lg.Seeds(0)).inputs.shape
        torch.Size([1, 1, 8, 8])
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
        """Return the side of the patches in pixels, or the reason why it is not known."""
        if self.patch is not None:
            return self.patch
        return patch_size(observation.model, observation.domain.shape[0])

    def priors(
        self, observation: Observation, statistics: FeatureStatistics
    ) -> list[tuple[float, Term]]:
        """Return the priors of fidelity, and the patch prior if its weight is above 0 and the patches are known."""
        fidelity = super().priors(observation, statistics)
        size = self.size(observation) if self.patch_prior > 0 else Inapplicable("no patch prior")
        if isinstance(size, Inapplicable):
            return fidelity
        return [*fidelity, (self.patch_prior, PatchBorders(size))]

    @property
    def parametrization(self) -> Direct:
        """The variables that the descent moves."""
        if self.coordinates == "cosines":
            return Spectral(center=0.5, noise=0.3)
        return super().parametrization

    def weighted(self, observation: Observation, statistics: FeatureStatistics) -> list[Term]:
        """Return the terms of the objective. Their weights depend on progress."""
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
