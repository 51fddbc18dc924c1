"""Outpost: entries are pruned, and the riskiest get noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from leakgauge.core import (
    Claim,
    Effect,
    InUpdateUnits,
    LocalTraining,
    Misleading,
    Seeds,
    Tensors,
    Update,
    trainable,
)
from leakgauge.core.ranges import Fraction, NonNegative, Whole
from leakgauge.defenses.base import Undefended, keep_observed_support, not_one_gradient
from leakgauge.defenses.top_k import keep_largest
from leakgauge.federated.training.wrapper import Task, Wrapper


@dataclass(frozen=True, kw_only=True)
class Outpost(Undefended):
    r"""Prune small entries and add noise where the Fisher information is largest (Outpost).

    It acts on the gradient computation, with a probability that falls from one local iteration to
    the next.

    .. math::

        \tilde g = \mathrm{largest}(g)
        + F \odot \mathcal{N}\left(0, (\rho \min(\mathrm{Var}(w), 1))^2 I\right)
        \quad \text{with probability } \frac{1}{1 + \beta t}

    Here :math:`g` is one tensor of the gradient and :math:`w` its weights. The mask :math:`F` is 1
    where the Fisher information is among the largest `fraction` of all, and 0 elsewhere.
    :math:`\rho` is `noise`, :math:`\beta` is `decay`, and :math:`t` is `iteration`. The empirical
    Fisher information is the squared gradient, averaged over its first axis.

    The parts and the defaults follow the authors' code (`gradient_leakage_attacks` among the
    examples of Plato). We could not read the paper's own equations.

    An adaptive adversary leaves out the entries that were not sent. It also leaves out entries
    under noise that stand out by less than three standard deviations. It can recognize entries
    under noise only if `sparsity` is at least a half.

    Args:
        noise: Standard deviation of the noise, at least 0, in units of the variance of a tensor's
            weights, which counts as at most 1.
        fraction: Fraction of all entries that get noise, in [0, 1).
        sparsity: Fraction of each tensor's entries that is pruned, in [0, 1).
        decay: Rate, at least 0, at which the probability falls.
        iteration: Number of local iterations before this one, at least 0. The authors' code counts
            from 1. There the first iteration is perturbed with probability 0.89.

    Raises:
        SpecificationError: The client shares something else than one gradient. With several local
            steps the defense would act on each of them.

    References:
        Wang, Hugh, Li. More than Enough is Too Much: Adaptive Defenses against Gradient Leakage in
        Production Federated Learning. INFOCOM 2023.

    Example:
        >>> import leakgauge as lg
        >>> defense = lg.defenses.Outpost(noise=0.0, sparsity=0.75)
        >>> weight = lg.examples.observation(defense=defense).update.tensors["linear1.weight"]
        >>> weight.numel(), int((weight != 0).sum()) <= 80
        (320, True)
    """

    strength: ClassVar[str] = "noise"
    claim: ClassVar[Claim] = Claim(
        "the entries of least magnitude, and, by noise, the entries with the most Fisher information. The noise "
        "grows with the variance of a tensor's weights",
        "anyone who sees the update",
        "leaves out the entries that were not sent, and the entries under noise that stand out by less than three "
        "standard deviations",
    )
    noise: NonNegative = 0.8
    fraction: Fraction = 0.4
    sparsity: Fraction = 0.8
    decay: NonNegative = 0.125
    iteration: Whole = 0

    @property
    def effects(self) -> tuple[Effect, ...]:
        return InUpdateUnits(), Misleading(believed=self.believed)

    def on_training(self, training: LocalTraining, *, seeds: Seeds) -> LocalTraining:
        if training.kind != "gradient":
            raise not_one_gradient(self, training)
        return _Perturbed(training, self, seeds)

    def adapt(self, observed: Update) -> Callable[[Tensors], Tensors]:
        return keep_observed_support(self.believed(observed))

    def believed(self, observed: Update) -> Update:
        """Return the update, with zeros where noise dominates.

        This needs noise and a `sparsity` of at least a half. Otherwise the update is returned
        unchanged.
        """
        noise_shows = self.noise > 0 and self.sparsity >= 0.5
        return observed.map(remove_noise) if noise_shows else observed


@dataclass(frozen=True)
class _Perturbed(Wrapper):
    """Local training whose gradient is pruned, with noise where the risk is high."""

    defense: Outpost
    seeds: Seeds

    def update(self, task: Task) -> Tensors:
        """Return the perturbed gradient."""
        defense, generator = self.defense, self.seeds.generator("outpost")
        update = task.by(self.training)
        chance = 1 / (1 + defense.decay * defense.iteration)
        if float(torch.rand((), generator=generator)) >= chance:
            return update
        noised, weights = fisher_mask(update, defense.fraction), trainable(task.model)
        found = {}
        for name, gradient in update.items():
            draws = torch.randn(gradient.shape, generator=generator, dtype=gradient.dtype)
            std = defense.noise * risk(weights[name])
            noise = std * draws.to(gradient) * noised[name].to(gradient)
            found[name] = keep_largest(gradient, defense.sparsity) + noise
        return found


def remove_noise(t: Tensor) -> Tensor:
    """Return a pruned tensor, with zeros in place of the entries that do not stand out of the noise.

    Pruned entries are 0. So a column along the first axis without any zero must hold noise. Noise
    covers mostly pruned entries, so the median shows its standard deviation.
    """
    if t.ndim == 0 or t.numel() == 0:
        return t
    noised = (t != 0).all(dim=0).expand_as(t)
    if not bool(noised.any()):
        return t
    std = t[noised].abs().median() / 0.6745
    return t * ~(noised & (t.abs() < 3 * std))


def risk(weights: Tensor) -> float:
    """Return the variance of a tensor of weights, at most 1, or 0 if it has fewer than two entries."""
    return min(float(weights.detach().var()), 1.0) if weights.numel() > 1 else 0.0


def fisher_mask(update: Tensors, fraction: float) -> Tensors:
    """Return 1 where the empirical Fisher information is among the largest `fraction` of all, and 0 elsewhere.

    The information is the squared gradient, averaged over its first axis. The masks broadcast over
    that axis.
    """
    information = {n: t.detach().square() for n, t in update.items()}
    information = {n: t.mean(dim=0) if t.ndim else t for n, t in information.items()}
    flat = torch.cat([t.flatten() for t in information.values()])
    mask = torch.zeros_like(flat)
    mask[flat.argsort(descending=True, stable=True)[: int(fraction * len(flat))]] = 1
    parts = torch.split(mask, [t.numel() for t in information.values()])
    return {n: m.view_as(t) for m, (n, t) in zip(parts, information.items(), strict=True)}
