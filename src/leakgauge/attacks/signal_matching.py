"""Layers before a hidden one, matched whatever is behind. Ours; that PRECODE's bottleneck is to be left out of the
matching is from Scheliga, Mäder, Seeland: Privacy Preserving Federated Learning with Convolutional Variational
Bottlenecks, arXiv:2309.04515, where what is behind is simulated all the same.

    minimize over x, u   d( 1/B sum_b (dr(x_b) / dtheta)' u_b,  g* )  +  priors(x)

over the layers before the first hidden one, which reads r. The signal u = dL/dr is a variable of each example: neither
labels, nor hidden weights, nor what a bottleneck drew enter. A batch has that many unknowns more than it has pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from leakgauge.attacks.labels import labels_of, withheld
from leakgauge.attacks.recipe import Recipe
from leakgauge.attacks.vanishing_prior import VanishingPrior
from leakgauge.core import (
    BaseAttack,
    Observation,
    Progress,
    Reconstruction,
    Seeds,
    SingleGradient,
)
from leakgauge.inversion import GradientMatching, Read
from leakgauge.inversion.variables.signals import Signals, WithSignal, scaled, severed, split_of
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

    def unsuited(self, observation: Observation) -> str | None:
        if not isinstance(observation.training, SingleGradient):
            return "needs an update that is one gradient"
        if type(observation.model).__call__ is not nn.Module.__call__:
            return "the model overrides __call__, so that its forward cannot be ended early"
        split = split_of(observation)
        if isinstance(split, str):
            return split
        return self.attack.matching().objective.inapplicable(observation)

    def evaluations(self, observation: Observation) -> int:
        return self.attack.evaluations(observation) + 1

    def matching(self, signals: Signals, like: torch.Tensor, batch: int) -> GradientMatching:
        """The attack's composition, of wide examples."""
        plain = self.attack.matching()
        none = torch.zeros(batch, dtype=torch.long, device=like.device)
        return replace(
            plain,
            objective=OfInputs(plain.objective, signals),
            parametrization=WithSignal(base=plain.parametrization, layout=signals),
            labels=Read(none),
        )

    def reconstruct(
        self, observation: Observation, *, seeds: Seeds, progress: Progress
    ) -> Reconstruction:
        split = split_of(observation)
        assert not isinstance(split, str), "unsuited() refuses this"
        layer, features = split
        signals = scaled(observation, layer, features, seeds.generator("signals"))
        like = observation.update.like
        matching = self.matching(signals, like, observation.batch_size)
        found = matching(severed(observation, layer, signals), seeds=seeds, progress=progress)
        labels, notes = (
            (None, ()) if withheld(observation) is not None else labels_of(observation, seeds)
        )
        return replace(
            found,
            inputs=signals.input_of(found.inputs).clone(),
            targets=labels,
            course=tuple(
                replace(s, inputs=signals.input_of(s.inputs).clone()) for s in found.course
            ),
            notes=(*notes, *found.notes, f"signal: {features} values an example, before {layer}"),
        )
