"""The Dropout Inversion Attack. Scheliga, Mäder, Seeland: Dropout is NOT All You Need to Prevent Gradient
Leakage, AAAI 2023.

    a dropout layer l of the client computes   x m_l / (1 - p_l),   m_l ~ Bernoulli(1 - p_l), which nobody shares
    minimize over x, m in [0, 1]   d(g(x, y, m), g*)  +  priors(x)  +  weight sum_l (mean(m_l) - (1 - p_l))^2

from masks drawn as a client draws them, every example and every call with its own, by any gradient matching.
"""

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
    within,
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
    """`attack` with the masks of all dropout layers as variables beside the inputs.

    `weight`: of the masks' means, the paper's 1e-4 against a cosine distance. What a client drew has not
    quite that mean: second order, which ends where all is matched, wants 0. `start`: masks as a client
    draws them, or all at 1 - p. Descents with a line search keep no box: masks outside [0, 1] then cost
    `outside` times their mean squared distance to it.
    """

    attack: Recipe = DEFAULT
    weight: NonNegative = 1e-4
    start: Start = "bernoulli"
    outside: NonNegative = 1.0

    @property
    def requires(self) -> frozenset[str]:
        return self.attack.requires

    def matching(self, masks: Masks) -> GradientMatching:
        """Return the attack's composition, of wide examples."""
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
        # Rules that read labels, and terms, know examples as they are.
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
        """Return the inputs of the wide examples. plain: the observation of the model without dropout."""
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
                notes=(*notes, *found.notes, f"masks: {sum(masks.sizes[1:])} values an example"),
            )

        return narrowed(wide.search(seeds, within(progress, 0.0, 1.0, finish=narrowed)))
