"""Feature inversion: from the input of a deep linear layer back to the image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from leakgauge.analytic.hidden import ReadFeatures, feature_reader
from leakgauge.attacks.labels import LabelPlan, plan_labels
from leakgauge.attacks.softmax_unmixing import READING, UNLABELED, complete_labels, reporter
from leakgauge.core import (
    BaseAttack,
    Inapplicable,
    Observation,
    Plan,
    Progress,
    Reconstruction,
    Seeds,
    Status,
    scale_progress,
)
from leakgauge.core.ranges import Count, NonNegative
from leakgauge.core.verdicts import report_nothing_found
from leakgauge.inversion import (
    LBFGS,
    VARIATIONS,
    Cosine,
    FeatureMatch,
    FixedLabels,
    GradientMatching,
    InRange,
    Known,
    LastLayer,
    Smoothness,
    Spectral,
    Term,
    VariationName,
)
from leakgauge.inversion.objectives.features import entangled
from leakgauge.inversion.search.engine import Ready, ready
from leakgauge.inversion.variables.labels import ReadyLabels


@dataclass(frozen=True, kw_only=True)
class FeatureInversion(BaseAttack):
    r"""Recover each example's features from a deep linear layer's gradient, then search for images with these features.

    Use it on convolutional networks with a linear layer, also for batches. Each image then depends
    on its own features alone, not on other images of the batch. On tables, set `smoothness` to 0.
    The notes say how the features were recovered.

    .. math::

        \min_x \; &\frac{1}{B} \sum_i \frac{\|h(x_i) - h_i\|^2}{\sigma_i^2} + \frac{s}{n} \|\Delta x\|^2
        + \lambda \, \mathrm{TV}(x) \\
        &+ \frac{1}{n} d(x, [0, 1]^n)^2
        + \mu \left(1 - \cos(g(x, y), g^*)\right)

    Here :math:`h(x_i)` are the features of example i, the input of the first linear layer. The
    gradient of this layer gives the true features :math:`h_i`, and :math:`\sigma_i` is the scale on
    which they differ from those of other examples. The batch has n values, :math:`\Delta x` is the
    image's Laplacian, and :math:`d` the distance to the public range. The simulated gradient is
    :math:`g(x, y)` and the observed one :math:`g^*`. The weights :math:`s`, :math:`\lambda` and
    :math:`\mu` are `smoothness`, `tv` and `gradients`.

    The paper uses total variation. In our experiments, the smoothness prior works better, since it
    smooths color more than brightness.

    Args:
        steps: Number of steps of L-BFGS, at least 1. The default is ours.
        smoothness: Weight of smoothness, at least 0. The default is ours.
        tv: Weight of total variation, at least 0.
        variation: Name of the total variation: "anisotropic", "isotropic" or "color".
        gradients: Weight of the cosine distance of the whole update, at least 0.
        rounds: Largest number of rounds of silent outputs, at least 0, as in `CocktailParty`. The
            default is ours.

    References:
        Kariyappa, Guo, Maeng, Xiong, Suh, Qureshi, Lee. Cocktail Party Attack: Breaking
        Aggregation-Based Privacy in Federated Learning Using Independent Component Analysis. ICML
        2023, section 5. arXiv:2209.05578.

    Example:
        >>> import leakgauge as lg
        >>> observation = lg.examples.observation(batch_size=2)
        >>> attack = lg.attacks.FeatureInversion(steps=20, rounds=1)
        >>> attack(observation, seeds=lg.Seeds(0)).inputs.shape
        torch.Size([2, 1, 8, 8])
    """

    steps: Count = 500
    smoothness: NonNegative = 1e-4
    tv: NonNegative = 0.0
    variation: VariationName = "anisotropic"
    gradients: NonNegative = 0.0
    rounds: Annotated[int, Ge(0)] = 12

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"batch_size"})

    def prepare(self, observation: Observation) -> Plan | Inapplicable:
        read = feature_reader(observation, rounds=self.rounds)
        if isinstance(read, Inapplicable):
            return read
        reason = entangled(observation) or self.prior().inapplicable(observation)
        if reason is not None:
            return Inapplicable(reason)
        labels = plan_own_labels(observation)
        if isinstance(labels, Inapplicable):
            return labels
        # The term of the features follows in `search`, when they are known.
        descent = ready(self.matching(InRange(), torch.zeros(0, dtype=torch.long)), observation)
        if isinstance(descent, Inapplicable):
            return descent
        search = partial(self.search, observation, read, labels, descent)
        return Plan(evaluations=self.descent.bound, search=search)

    @property
    def descent(self) -> LBFGS:
        """Return the descent that lowers the objective."""
        return LBFGS(steps=self.steps, history=100, line_search="strong_wolfe")

    def matching(self, objective: Term, labels: Tensor) -> GradientMatching:
        """Return the gradient matching that searches for images.

        Args:
            objective: The objective to minimize.
            labels: The labels (B,), in the order of the features.
        """
        return GradientMatching(
            objective=objective,
            parametrization=Spectral(center=0.5, noise=0.1),
            labels=FixedLabels(labels),
            descent=self.descent,
        )

    def prior(self) -> Term:
        """Return the prior of the inputs."""
        prior: Term = InRange()
        if self.smoothness > 0:
            prior = prior + self.smoothness * Smoothness()
        if self.tv > 0:
            prior = prior + self.tv * VARIATIONS[self.variation]
        return prior

    def search(
        self,
        observation: Observation,
        read: ReadFeatures,
        planned: LabelPlan | ReadyLabels,
        descent: Ready,
        seeds: Seeds,
        progress: Progress,
    ) -> Reconstruction:
        """Recover the features and labels of each example, then search for images with these features.

        Args:
            observation: The observation to attack.
            read: The function that recovers features.
            planned: The label of a batch of one. For larger batches, the source of the labels that
                are not recovered with the features.
            descent: The search, still without the term of the features.
            seeds: The seeds of the search.
            progress: The callback that receives the progress.
        """
        features = read(seeds.generator("features"), reporter(progress))
        if isinstance(features, Inapplicable):
            return report_nothing_found(observation, Status.INAPPLICABLE, features.reason)
        if isinstance(planned, LabelPlan):
            labels = complete_labels(features.labels, lambda: planned, seeds)
        else:
            labels = planned.start(observation, seeds.generator("labels"))
        if labels is None:
            return report_nothing_found(observation, Status.INAPPLICABLE, UNLABELED)
        term = FeatureMatch.of(observation, features.layer, features.features, features.error)
        objective = term + self.prior()
        if self.gradients > 0:
            objective = objective + self.gradients * Cosine()
        found = replace(descent, matching=self.matching(objective, labels)).with_labels(labels)
        known, source = torch.isfinite(features.error), f"features: {features.source}"

        def noted(found: Reconstruction) -> Reconstruction:
            return replace(found, found=known, notes=(source, *found.notes))

        part = scale_progress(progress, READING, 1 - READING, finish=noted)
        return noted(found.search(seeds, part))


def plan_own_labels(observation: Observation) -> LabelPlan | ReadyLabels | Inapplicable:
    """Return the label of one example or the source of a batch's labels, or the reason why there are none."""
    labels = observation.knowledge.labels
    if observation.batch_size == 1:
        rule = LastLayer() if labels is None else Known()
        return rule.prepare(observation)
    if labels is not None and (labels.ndim != 1 or labels.is_floating_point()):
        return Inapplicable(
            "needs class labels to separate features, but the granted targets are not class labels"
        )
    return plan_labels(observation)
