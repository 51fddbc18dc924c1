"""Layers before a hidden one, matched whatever is behind. Ours; that PRECODE's bottleneck is to be left out of the
matching is from Scheliga, Mäder, Seeland: Privacy Preserving Federated Learning with Convolutional Variational
Bottlenecks, arXiv:2309.04515, where what is behind is simulated all the same.

    minimize over x, u   d( 1/B sum_b (dr(x_b) / dtheta)' u_b,  g* )  +  priors(x)

over the layers before the first hidden one, which reads r. The signal u = dL/dr is a variable of each example: neither
labels, nor hidden weights, nor what a bottleneck drew enter. A batch has that many unknowns more than it has pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from leakgauge.attacks.labels import LabelPlan, plan_labels
from leakgauge.attacks.recipe import Recipe
from leakgauge.attacks.vanishing_prior import VanishingPrior
from leakgauge.core import (
    BaseAttack,
    Inapplicable,
    Observation,
    Plan,
    Progress,
    Reconstruction,
    Seeds,
    SingleGradient,
    unit_shape,
    within,
)
from leakgauge.inversion import FixedLabels, GradientMatching
from leakgauge.inversion.search.engine import Ready, ready
from leakgauge.inversion.variables.signals import (
    Signals,
    WithSignal,
    find_split,
    scale_signals,
    sever,
)
from leakgauge.inversion.variables.wide import OfInputs

DEFAULT = VanishingPrior(steps=2000)


@dataclass(frozen=True, kw_only=True)
class SignalMatching(BaseAttack):
    """`attack` on the layers before the first hidden one, with the signal that comes back to them as variables.

    Labels, where granted or read, are reported, and used for nothing.
    """

    attack: Recipe = DEFAULT

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"batch_size", "defense"})

    def prepare(self, observation: Observation) -> Plan | Inapplicable:
        if not isinstance(observation.training, SingleGradient):
            return Inapplicable("needs an update that is one gradient")
        if type(observation.model).__call__ is not nn.Module.__call__:
            return Inapplicable(
                "the model overrides __call__, so that its forward cannot be ended early"
            )
        split = find_split(observation)
        if isinstance(split, Inapplicable):
            return split
        plain = self.attack.matching().objective.inapplicable(observation)
        if plain is not None:
            return Inapplicable(plain)
        layer, features = split
        signals = Signals(unit_shape(observation.domain), features)
        found = ready(self.matching(signals, observation), sever(observation, layer, signals))
        if isinstance(found, Inapplicable):
            return found
        return Plan(
            evaluations=found.matching.budget + 1,
            search=partial(self.search, observation, layer, features, plan_labels(observation)),
        )

    def matching(self, signals: Signals, observation: Observation) -> GradientMatching:
        """Return the attack's composition, of wide examples."""
        plain = self.attack.matching()
        return replace(
            plain,
            objective=OfInputs(plain.objective, signals),
            parametrization=WithSignal(base=plain.parametrization, layout=signals),
            labels=no_labels(observation),
        )

    def search(
        self,
        observation: Observation,
        layer: str,
        features: int,
        known: LabelPlan | Inapplicable,
        seeds: Seeds,
        progress: Progress,
    ) -> Reconstruction:
        """Return the inputs of the wide examples, and labels if they are known."""
        signals = scale_signals(observation, layer, features, seeds.generator("signals"))
        matching = self.matching(signals, observation)
        wide = Ready.of(matching, sever(observation, layer, signals), no_labels(observation))
        labels, notes = (None, ()) if isinstance(known, Inapplicable) else known.read(seeds)

        def narrowed(found: Reconstruction) -> Reconstruction:
            return replace(
                found,
                inputs=signals.input_of(found.inputs).clone(),
                targets=labels,
                trajectory=tuple(
                    replace(s, inputs=signals.input_of(s.inputs).clone()) for s in found.trajectory
                ),
                notes=(
                    *notes,
                    *found.notes,
                    f"signal: {features} values an example, before {layer}",
                ),
            )

        return narrowed(wide.search(seeds, within(progress, 0.0, 1.0, finish=narrowed)))


def no_labels(observation: Observation) -> FixedLabels:
    """Return labels (B,) of zero for a loss that uses none."""
    device = observation.update.like.device
    return FixedLabels(torch.zeros(observation.batch_size, dtype=torch.long, device=device))
