"""Gradient matching on the layers before the first one that the adversary cannot use."""

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
    scale_progress,
    unit_shape,
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
    r"""Match gradients of the layers before concealed layers, and search for the signal that flows back.

    Use it if a defense conceals layers of the model. Local layers never leave the client. The
    gradients of PRECODE's bottleneck and of the layer after it depend on the client's random draws.
    All concealed layers must come after the visible ones.

    .. math::

        \min_{x, u} \; d\Big(\frac{1}{B} \sum_b \Big(\frac{\partial r(x_b)}{\partial \theta}\Big)^\top u_b, \; g^*\Big)
        + \mathrm{priors}(x)

    Here :math:`r(x_b)` is the input of the first concealed layer for example :math:`x_b`. The
    parameters before this layer are :math:`\theta`, their observed gradient is :math:`g^*`, and
    :math:`d` is the distance of `attack`. The signal :math:`u_b = \partial L / \partial r(x_b)` is
    unknown, so it is a variable for each example. The attack needs no labels, no concealed weights
    and no random draws of a bottleneck. Each example adds as many unknowns as :math:`r` has values.

    Labels that are granted or recovered are reported, but the search does not use them.

    Args:
        attack: Gradient matching that gives the distance, the priors and the search. The default is
            `VanishingPrior` with 2000 steps.

    References:
        Ours. Leaving PRECODE's bottleneck out of the matching is from Scheliga, Mäder, Seeland.
        Privacy Preserving Federated Learning with Convolutional Variational Bottlenecks. 2023.
        arXiv:2309.04515. There, the layers behind it are still simulated.

    Example:
        >>> import leakgauge as lg
        >>> observation = lg.examples.observation(batch_size=1, defense=lg.defenses.LocalLayers())
        >>> attack = lg.attacks.SignalMatching(attack=lg.attacks.VanishingPrior(steps=20))
        >>> found = attack(observation, seeds=lg.Seeds(0))
        >>> found.notes
        ('signal: 32 variables for each example, at the input of layer linear1',)
    """

    attack: Recipe = DEFAULT

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"batch_size", "defense"})

    def prepare(self, observation: Observation) -> Plan | Inapplicable:
        if not isinstance(observation.training, SingleGradient):
            return Inapplicable("it needs an update that is one gradient, not a weight difference")
        if type(observation.model).__call__ is not nn.Module.__call__:
            return Inapplicable(
                "the model overrides __call__, so its forward pass cannot be ended before the concealed layers"
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
        """Return the matching of `attack` on wide examples: each holds its input and its signal."""
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
        """Return the inputs of the wide examples, with labels if they are known."""
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
                    f"signal: {features} variables for each example, at the input of layer {layer}",
                ),
            )

        return narrowed(wide.search(seeds, scale_progress(progress, 0.0, 1.0, finish=narrowed)))


def no_labels(observation: Observation) -> FixedLabels:
    """Return zeros (B,) as labels for a loss that uses no labels."""
    device = observation.update.like.device
    return FixedLabels(torch.zeros(observation.batch_size, dtype=torch.long, device=device))
