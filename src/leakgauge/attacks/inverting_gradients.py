"""Inverting Gradients: cosine distance and total variation."""

from __future__ import annotations

from dataclasses import dataclass

from leakgauge.attacks.recipe import Recipe
from leakgauge.core.ranges import Count, NonNegative, Positive
from leakgauge.inversion import (
    VARIATIONS,
    Cosine,
    Direct,
    GradientMatching,
    Known,
    Orthogonality,
    SignedAdam,
    Term,
    VariationName,
)


@dataclass(frozen=True, kw_only=True)
class InvertingGradients(Recipe):
    r"""Match gradients by cosine distance, with a total variation prior.

    Use it on images if no attack in closed form applies. It needs thousands of steps. On tables,
    set `tv` to 0.

    .. math::

        \min_{x \in [0, 1]^n} \; 1 - \frac{\langle g(x, y), g^* \rangle}{\|g(x, y)\| \, \|g^*\|}
        + \lambda \, \mathrm{TV}(x)

    Here :math:`g(x, y)` is the simulated gradient, :math:`g^*` the observed one, and
    :math:`\lambda` is `tv`. Labels :math:`y` are granted, or recovered first. Adam follows the sign
    of this objective's gradient. Its rate falls tenfold at 3/8, 5/8 and 7/8 of the steps.

    The paper starts from N(0, 1) and steps by 0.1, both in normalized pixels. Here the start has a
    standard deviation of 0.25 around 0.5, which is that of a normalized CIFAR-10 pixel. Steps are
    in units of this deviation.

    Args:
        steps: Number of steps, at least 1. The default is the paper's.
        lr: Step size of Adam, above 0, in units of the start's deviation. The default is the
            paper's.
        tv: Weight of total variation, at least 0. The default is that of the paper's code.
        variation: Name of the total variation: "anisotropic", "isotropic" or "color".
        orthogonality: Weight, at least 0, of a penalty on correlated examples of a batch. It keeps
            examples from becoming blends of each other. The paper has no penalty of this kind.
        restarts: Number of independent starts, at least 1. The objective chooses among them.

    References:
        Geiping, Bauermeister, Dröge, Moeller. Inverting Gradients: How Easy Is It to Break Privacy
        in Federated Learning? NeurIPS 2020, equation 4. arXiv:2003.14053.

    Example:
        >>> import leakgauge as lg
        >>> observation = lg.examples.observation(batch_size=1)
        >>> attack = lg.attacks.InvertingGradients(steps=20)
        >>> attack(observation, seeds=lg.Seeds(0)).inputs.shape
        torch.Size([1, 1, 8, 8])
    """

    steps: Count = 24_000
    lr: Positive = 0.1
    tv: NonNegative = 1e-4
    variation: VariationName = "anisotropic"
    orthogonality: NonNegative = 0.0
    restarts: Count = 1

    def matching(self) -> GradientMatching:
        objective: Term = Cosine()
        if self.tv > 0:
            objective = objective + self.tv * VARIATIONS[self.variation]
        if self.orthogonality > 0:
            objective = objective + self.orthogonality * Orthogonality()
        return GradientMatching(
            objective=objective,
            parametrization=Direct(center=0.5, spread=0.25, box=True),
            labels=Known(),
            descent=SignedAdam(steps=self.steps, lr=self.lr),
            restarts=self.restarts,
        )
