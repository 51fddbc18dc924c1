"""Outpost. Wang, Hugh, Li: More than Enough is Too Much, Adaptive Defenses against Gradient Leakage in Production
Federated Learning, INFOCOM 2023.

    with probability 1 / (1 + decay t), at local iteration t, of each tensor g of weights w:
    g <- g without its smallest entries,  plus  N(0, (noise min(Var w, 1))^2)  where the Fisher information is largest
"""

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
from leakgauge.defenses.top_k import largest
from leakgauge.federated.training.wrapper import Task, Wrapper


@dataclass(frozen=True, kw_only=True)
class Outpost(Undefended):
    """Prune `sparsity` of each tensor; noise where the Fisher information is among the largest `share` of all.

    How the parts fit, and the defaults, are those of the authors' code (gradient_leakage_attacks among Plato's
    examples); the paper's own equations we could not read. There the empirical Fisher information is the squared
    gradient, its mean over the first axis. `iteration` t >= 0: how many local iterations came before (the code
    counts from 1, and perturbs the first of them with probability 0.89). Of several local steps it would act
    on the gradient of each: raises SpecificationError.
    """

    strength: ClassVar[str] = "noise"
    claim: ClassVar[Claim] = Claim(
        "the entries of least magnitude, and within noise those of the most Fisher information, "
        "the more the wider a layer's weights spread",
        "whoever sees the update",
        "leaves out the entries that were not sent, and those under noise that stand out of it "
        "by less than three standard deviations",
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
        """`observed`, zero where there is little but noise. Needs a `sparsity` of a half or more to tell."""
        telling_apart = self.noise > 0 and self.sparsity >= 0.5
        return observed.map(out_of_noise) if telling_apart else observed


@dataclass(frozen=True)
class _Perturbed(Wrapper):
    """Local training whose gradient is pruned and noised by risk."""

    defense: Outpost
    seeds: Seeds

    def update(self, task: Task) -> Tensors:
        """Return the gradient, perturbed."""
        defense, generator = self.defense, self.seeds.generator("outpost")
        update = task.by(self.training)
        chance = 1 / (1 + defense.decay * defense.iteration)
        if float(torch.rand((), generator=generator)) >= chance:
            return update
        noised, weights = telling(update, defense.fraction), trainable(task.model)
        found = {}
        for name, gradient in update.items():
            draws = torch.randn(gradient.shape, generator=generator, dtype=gradient.dtype)
            std = defense.noise * risk(weights[name])
            noise = std * draws.to(gradient) * noised[name].to(gradient)
            found[name] = largest(gradient, defense.sparsity) + noise
        return found


def out_of_noise(t: Tensor) -> Tensor:
    """A pruned tensor without the entries under noise that do not stand out of it.

    Only noise leaves none of the first axis zero; most of what it was added to was pruned, so that the median tells it.
    """
    if t.ndim == 0 or t.numel() == 0:
        return t
    noised = (t != 0).all(dim=0).expand_as(t)
    if not bool(noised.any()):
        return t
    std = t[noised].abs().median() / 0.6745
    return t * ~(noised & (t.abs() < 3 * std))


def risk(weights: Tensor) -> float:
    """The variance of a tensor of weights, at most 1; 0 of fewer than two."""
    return min(float(weights.detach().var()), 1.0) if weights.numel() > 1 else 0.0


def telling(update: Tensors, fraction: float) -> Tensors:
    """1 where the empirical Fisher information is among the largest `share` of all, else 0.

    It is the squared gradient, its mean over the first axis, over which the answer broadcasts.
    """
    information = {n: t.detach().square() for n, t in update.items()}
    information = {n: t.mean(dim=0) if t.ndim else t for n, t in information.items()}
    flat = torch.cat([t.flatten() for t in information.values()])
    mask = torch.zeros_like(flat)
    mask[flat.argsort(descending=True, stable=True)[: int(fraction * len(flat))]] = 1
    parts = torch.split(mask, [t.numel() for t in information.values()])
    return {n: m.view_as(t) for m, (n, t) in zip(parts, information.items(), strict=True)}
