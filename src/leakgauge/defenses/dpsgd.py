"""DP-SGD: the gradient of each example is clipped, and the mean gets Gaussian noise."""

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
    r"""Clip the gradient of each example and add Gaussian noise to the mean (DP-SGD).

    It acts on the gradient computation. It gives differential privacy for one example: nobody can
    tell with certainty whether the example was in the batch.

    .. math::

        \tilde g = \frac{1}{B} \left( \sum_{b=1}^{B} g_b \, \min\left(1, \frac{C}{\|g_b\|_2}\right)
        + \mathcal{N}\left(0, (z C)^2 I\right) \right)

    Here :math:`g_b` is the gradient of example :math:`b` of :math:`B`, over all tensors together.
    :math:`C` is `max_norm`, and :math:`z` is `noise_multiplier`. Each entry of the mean gets noise
    of standard deviation :math:`z C / B`.

    An adaptive adversary simulates the clipping of each example and matches by squared differences.
    Under Gaussian noise this finds the most likely batch. The attack `BayesOptimal` adds a prior
    with the right weight.

    Args:
        max_norm: Largest Euclidean length of one example's gradient, above 0, in the gradient's own
            units. The default is ours.
        noise_multiplier: Standard deviation of the noise on the sum, at least 0, in units of
            `max_norm`. The default is ours.

    Raises:
        SpecificationError: The client shares something else than one gradient.
        ModelError: The model has BatchNorm in train mode. Then no example has a gradient of its
            own.

    References:
        Abadi, Chu, Goodfellow, McMahan, Mironov, Talwar, Zhang. Deep Learning with Differential
        Privacy. CCS 2016, algorithm 1. arXiv:1607.00133.

    Example:
        >>> import leakgauge as lg
        >>> defense = lg.defenses.DPSGD(max_norm=2.0, noise_multiplier=0.5)
        >>> lg.examples.observation(batch_size=4, defense=defense).noise.std
        0.25
    """

    strength: ClassVar[str] = "noise_multiplier"
    claim: ClassVar[Claim] = Claim(
        "whether any one example was in the batch, within epsilon",
        "anyone who sees the update",
        "simulates the clipping of each example and matches by squared differences. Under Gaussian noise this finds "
        "the most likely batch",
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
        """Return the training with the clipping and without the noise. Each client of a group clips by itself."""
        if isinstance(training, Aggregated):
            inner, each = self.simulated(training.training), map(self.simulated, training.each)
            return replace(training, training=inner, each=tuple(each))
        if not isinstance(training, SingleGradient):
            raise not_one_gradient(
                self,
                training,
                remedy="train by fedsgd, or use a chain of clipping and gaussian_noise on the weight difference",
            )
        return ClippedExamples(training, self.max_norm)

    def on_training(self, training: LocalTraining, *, seeds: Seeds) -> LocalTraining:
        return _Noised(self.simulated(training), self.noise, seeds)

    def epsilon(self, *, steps: int, sample_rate: float, delta: float) -> float:
        """Return the epsilon of (epsilon, delta)-differential privacy after `steps` steps.

        Epsilon is infinite if there is no noise.

        Args:
            steps: Number of steps, at least 1.
            sample_rate: Probability in (0, 1] that an example is in a batch. Each example must be
                drawn independently (Poisson sampling). The bound does not cover batches that are
                fixed.
            delta: Probability in (0, 1) with which the bound may fail.

        Raises:
            SpecificationError: The package opacus cannot be imported.
        """
        return rdp_epsilon(
            self.noise_multiplier, steps=steps, sample_rate=sample_rate, delta=delta, of="DPSGD"
        )


@dataclass(frozen=True)
class _Noised(Wrapper):
    """Local training with the noise of DP-SGD on its update."""

    noise: BatchNoise
    seeds: Seeds

    def update(self, task: Task) -> Tensors:
        """Return the mean with noise."""
        generator = self.seeds.generator("dp-sgd")
        std = self.noise.on_mean(len(task.inputs)).std
        return {
            n: t + std * torch.randn(t.shape, generator=generator, dtype=t.dtype).to(t)
            for n, t in task.by(self.training).items()
        }
