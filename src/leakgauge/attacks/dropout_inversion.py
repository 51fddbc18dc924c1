"""The Dropout Inversion Attack: gradient matching with dropout masks as variables."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch

from leakgauge.attacks.inverting_gradients import InvertingGradients
from leakgauge.attacks.recipe import Labeled, Recipe, label_if_needed, settle
from leakgauge.core import (
    BaseAttack,
    Inapplicable,
    Observation,
    Plan,
    Progress,
    Reconstruction,
    Seeds,
    scale_progress,
)
from leakgauge.core.ranges import NonNegative
from leakgauge.federated.layers.dropout import mean_network
from leakgauge.inversion import FixedLabels, GradientMatching, InRange
from leakgauge.inversion.search.engine import Ready, ready
from leakgauge.inversion.variables.masks import (
    MaskMean,
    Masks,
    OfMasks,
    Start,
    WithMasks,
    masks_of,
    widen,
)
from leakgauge.inversion.variables.wide import OfInputs

DEFAULT = InvertingGradients(steps=4000)


@dataclass(frozen=True, kw_only=True)
class DropoutInversion(BaseAttack):
    r"""Run a gradient matching with the masks of all dropout layers as further variables.

    Use it if the client trains with active dropout. Dropout layer l multiplies its input by
    :math:`m_l / (1 - p_l)`. The client draws the mask :math:`m_l` and shares it with nobody.

    .. math::

        \min_{x, \; m \in [0, 1]} \; d(g(x, y, m), g^*) + p(x)
        + w \sum_l \left( \mathrm{mean}(m_l) - (1 - p_l) \right)^2

    Here :math:`g(x, y, m)` is the simulated gradient, and :math:`g^*` the observed one. The
    distance :math:`d` and the priors :math:`p(x)` are those of `attack`. Dropout layer l erases
    each value with probability :math:`p_l`. The weight :math:`w` is `weight`. Each example and each
    call of a dropout layer has its own mask.

    Args:
        attack: The gradient matching to run. The default is `InvertingGradients` with 4000 steps.
        weight: Weight of the masks' means, at least 0. The default is the paper's, for a cosine
            distance. The mean of a drawn mask differs a little from 1 - p. So set 0 for an exact
            match by `SecondOrder`.
        start: "bernoulli" draws the first masks as a client draws them. "mean" sets all of them to
            1 - p.
        outside: Weight, at least 0, of the masks' mean squared distance to [0, 1]. It matters for
            descents with a line search, which do not clamp masks to [0, 1]. The default is ours.

    References:
        Scheliga, Mäder, Seeland. Dropout Is NOT All You Need to Prevent Gradient Leakage. AAAI
        2023. arXiv:2208.06163.

    Example:
        >>> import leakgauge as lg
        >>> observation = lg.examples.observation(defense=lg.defenses.Dropout(p=0.3))
        >>> quick = lg.attacks.InvertingGradients(steps=20)
        >>> attack = lg.attacks.DropoutInversion(attack=quick)
        >>> attack(observation, seeds=lg.Seeds(0)).inputs.shape
        torch.Size([1, 1, 8, 8])
    """

    attack: Recipe = DEFAULT
    weight: NonNegative = 1e-4
    start: Start = "bernoulli"
    outside: NonNegative = 1.0

    @property
    def requires(self) -> frozenset[str]:
        return self.attack.requires

    def matching(self, masks: Masks) -> GradientMatching:
        """Return the gradient matching over wide examples: inputs together with their masks."""
        plain = self.attack.matching()
        objective = OfInputs(plain.objective, masks) + self.weight * MaskMean(masks)
        return replace(
            plain,
            objective=objective + self.outside * OfMasks(InRange(), masks),
            parametrization=WithMasks(base=plain.parametrization, layout=masks, begin=self.start),
        )

    def prepare(self, observation: Observation) -> Plan | Inapplicable:
        masks = masks_of(observation)
        if isinstance(masks, Inapplicable):
            return masks
        # Rules that recover labels, and terms of the objective, expect examples without masks.
        plain = mean_network(observation)
        narrow = label_if_needed(self.attack.matching(), plain)
        if isinstance(narrow, Inapplicable):
            return narrow
        matching = self.matching(masks)
        if not matching.labels.free:
            matching = replace(matching, labels=FixedLabels(torch.zeros(0, dtype=torch.long)))
        wide = ready(matching, widen(observation, masks))
        if isinstance(wide, Inapplicable):
            return wide
        return Plan(
            evaluations=matching.budget, search=partial(self.search, masks, plain, narrow, wide)
        )

    def search(
        self,
        masks: Masks,
        plain: Observation,
        narrow: Labeled | Ready,
        wide: Ready,
        seeds: Seeds,
        progress: Progress,
    ) -> Reconstruction:
        """Return the inputs of the reconstructed wide examples.

        Args:
            masks: The layout of the masks beside the inputs.
            plain: The observation of the model without dropout.
            narrow: The gradient matching without masks. Its rule for labels is used.
            wide: The gradient matching with masks.
            seeds: The seeds of the search.
            progress: The callback that receives the progress.
        """
        rule, notes = settle(narrow, seeds)
        if not rule.labels.free:
            wide = wide.with_labels(rule.labels.start(plain, seeds.generator("labels")))

        def narrowed(found: Reconstruction) -> Reconstruction:
            return replace(
                found,
                inputs=masks.input_of(found.inputs).clone(),
                trajectory=tuple(
                    replace(s, inputs=masks.input_of(s.inputs).clone()) for s in found.trajectory
                ),
                notes=(
                    *notes,
                    *found.notes,
                    f"masks: {sum(masks.sizes[1:])} variables for each example",
                ),
            )

        return narrowed(wide.search(seeds, scale_progress(progress, 0.0, 1.0, finish=narrowed)))
