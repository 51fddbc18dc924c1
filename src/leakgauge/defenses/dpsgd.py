"""DP-SGD. Abadi, Chu, Goodfellow, McMahan, Mironov, Talwar, Zhang: Deep Learning with Differential Privacy, CCS 2016,
algorithm 1.

    1/B ( sum over examples b of  g_b min(1, max_norm / ||g_b||)   +   N(0, (noise_multiplier max_norm)^2) )
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from leakgauge.core import (
    BatchNoise,
    ChangedTraining,
    Claim,
    Effect,
    InUpdateUnits,
    LocalTraining,
    PrivacyBound,
    Seeds,
    SingleGradient,
    Tensors,
)
from leakgauge.core.ranges import NonNegative, Positive
from leakgauge.defenses.accounting import rdp_epsilon
from leakgauge.defenses.base import Undefended, not_one_gradient
from leakgauge.federated.training.aggregated import Aggregated
from leakgauge.federated.training.per_example import ClippedExamples
from leakgauge.federated.training.wrapper import Task, Wrapper


@dataclass(frozen=True, kw_only=True)
class DPSGD(Undefended):
    """Each example's gradient clipped at `max_norm` > 0, in the gradient's own units; Gaussian noise on their mean.

    The noise on each entry has standard deviation noise_multiplier * max_norm / B. The defaults are ours. Raises
    SpecificationError of several local steps, ModelError of BatchNorm in train mode.
    """

    strength: ClassVar[str] = "noise_multiplier"
    claim: ClassVar[Claim] = Claim(
        "whether any one example was there, within epsilon",
        "whoever sees the update",
        "simulates the clipping of each example, and matches by squares, the most likely batch under Gaussian noise",
    )
    max_norm: Positive = 1.0
    noise_multiplier: NonNegative = 1.0

    @property
    def effects(self) -> tuple[Effect, ...]:
        return (
            InUpdateUnits(),
            self.noise,
            ChangedTraining(simulated=self.simulated),
            PrivacyBound(protects="example", epsilon=self.epsilon),
        )

    @property
    def noise(self) -> BatchNoise:
        """The noise on the sum of the examples' gradients."""
        return BatchNoise(std=self.noise_multiplier * self.max_norm)

    def simulated(self, training: LocalTraining) -> LocalTraining:
        """The clipping without the noise; of several clients, each one's."""
        if isinstance(training, Aggregated):
            inner, each = self.simulated(training.training), map(self.simulated, training.each)
            return replace(training, training=inner, each=tuple(each))
        if not isinstance(training, SingleGradient):
            raise not_one_gradient(
                self,
                training,
                remedy="train by fedsgd, or bound the weight difference: a chain of clipping and gaussian_noise",
            )
        return ClippedExamples(training, self.max_norm)

    def on_training(self, training: LocalTraining, *, seeds: Seeds) -> LocalTraining:
        return _Noised(self.simulated(training), self.noise, seeds)

    def epsilon(self, *, steps: int, sample_rate: float, delta: float) -> float:
        """The epsilon of (epsilon, delta)-differential privacy after so many steps, by Opacus' RDP accountant.

        `sample_rate` in (0, 1]: the probability of each example to be in a batch, drawn for each by itself
        (Poisson); fixed batches it does not cover. Infinite without noise. Raises SpecificationError without Opacus.
        """
        return rdp_epsilon(
            self.noise_multiplier, steps=steps, sample_rate=sample_rate, delta=delta, of="DPSGD"
        )


@dataclass(frozen=True)
class _Noised(Wrapper):
    """Local training with DP-SGD's noise on its update."""

    noise: BatchNoise
    seeds: Seeds

    def update(self, task: Task) -> Tensors:
        """Return the noised mean."""
        generator = self.seeds.generator("dp-sgd")
        std = self.noise.on_mean(len(task.inputs)).std
        return {
            n: t + std * torch.randn(t.shape, generator=generator, dtype=t.dtype).to(t)
            for n, t in task.by(self.training).items()
        }
