"""Recursive Gradient Attack on Privacy. Zhu, Blaschko: ICLR 2021. Batch 1.

At the last layer, delta = dL/dz and the input h explain dW = delta h'     (section 3.2; `output_layer`)
From there to the input, layer by layer, with z = W x + b and h = sigma(z):
    z = sigma^-1(h)        delta = sigma'(z) (W_next' delta_next)           (equations 12, 13)
    [K(delta); W] x = [dW; z - b]      by least squares                     (equation 15; `constraints`)
The rank of [K; W] says beforehand whether a layer's input is determined    (section 4; `rank_index`)

A linear layer with a bias has delta = db and h = dW_i / db_i (Phong et al. 2018): the recursion starts at
the first such layer, and what follows it does not matter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from leakgauge.analytic.chain import unpooled
from leakgauge.analytic.constraints import system_of, too_large
from leakgauge.analytic.rank_index import LayerRank, carried, measured
from leakgauge.attacks.recursion import Beginning, Recursion, recursion_of
from leakgauge.core import (
    CERTIFIED_WITHIN,
    CONVERGED_WITHIN,
    BaseAttack,
    Cost,
    Inapplicable,
    Moment,
    Observation,
    Plan,
    Progress,
    Reconstruction,
    Seeds,
    Status,
)
from leakgauge.core.verdicts import nothing_found


@dataclass(frozen=True, kw_only=True)
class RGAP(BaseAttack):
    """One example through a chain of convolutions and linear layers without pools, in closed form.

    `rows`: "plain" stacks the equations of a layer as they are, as in the paper; "balanced" divides
    gradient's and weight's each by the norm of its right side (ours), which keeps float32 updates exact.
    """

    rows: Literal["balanced", "plain"] = "balanced"

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"batch_size"})

    def prepare(self, observation: Observation) -> Plan | Inapplicable:
        found = recursion_of(observation)
        if isinstance(found, Inapplicable):
            return found
        solved = found.chain.layers[: found.biased]
        reasons = (unpooled(found.chain), *map(too_large, solved))
        reason = next((reason for reason in reasons if reason is not None), None)
        if reason is not None:
            return Inapplicable(reason)
        return Plan(evaluations=3, search=partial(self.search, found))

    def search(self, found: Recursion, seeds: Seeds, progress: Progress) -> Reconstruction:
        """Return the best of the examples that the starts of the recursion lead to."""
        guesses: list[_Guess] = []

        def best() -> Reconstruction:
            return min(guesses, key=lambda guess: guess.misfit).reconstruction(len(guesses))

        with seeds.isolated("simulation"):
            beginnings = found.beginnings()
            # To find where to start is a part of the work, too.
            parts = len(beginnings) + 1
            progress(Moment(1 / parts))
            for start in beginnings:
                guesses.append(_finished(found, start, seeds, balanced=self.rows == "balanced"))
                progress(Moment((1 + len(guesses)) / parts, len(guesses), best=best))
                if guesses[-1].misfit <= CERTIFIED_WITHIN:
                    break
        if not guesses:
            reason = "no label and output explain the last layer's gradient"
            return nothing_found(found.observation, Status.UNCONVERGED, reason)
        return best()


@dataclass(frozen=True)
class _Guess:
    inputs: Tensor
    targets: Tensor | None
    residual: float | None
    ranks: tuple[LayerRank, ...]

    @property
    def misfit(self) -> float:
        """Return the residual, infinite if no label is known to simulate with."""
        return math.inf if self.residual is None else self.residual

    def reconstruction(self, evaluations: int) -> Reconstruction:
        """Return the guess, with a status that the ranks and the residual prove, or do not."""
        short = [layer for layer in self.ranks if layer.index < 0]
        status = Status.UNCONVERGED
        if self.misfit <= CONVERGED_WITHIN:
            status = Status.CONVERGED
        if self.misfit <= CERTIFIED_WITHIN and not short:
            status = Status.CERTIFIED
        told = "every layer's input is determined"
        if short:
            first = short[-1]  # the recursion comes from the output
            told = f"rank index {first.index} at {first.name!r}: its input is not determined"
        matched = "the label is not known, so nothing is checked"
        if self.residual is not None:
            matched = f"the update is matched to {self.residual:.2g} of its norm"
        return Reconstruction(
            inputs=self.inputs,
            targets=self.targets,
            found=torch.ones(1, dtype=torch.bool),
            status=status,
            message=f"{told}; {matched}",
            residual=self.residual,
            cost=Cost(evaluations),
            notes=tuple(layer.line for layer in self.ranks),
        )


def recurse(
    found: Recursion, start: Beginning, *, balanced: bool
) -> tuple[Tensor, tuple[LayerRank, ...]]:
    """Return what the first layer sees (*shape), and the rank of every layer on the way."""
    x, delta = start.features, start.delta
    ranks: list[LayerRank] = []
    for i in range(start.place - 1, -1, -1):
        layer, following = found.chain.layers[i], found.chain.layers[i + 1]
        noise = found.rounding(layer)
        z, known, slope = layer.deactivate(x.reshape(layer.output), noise=noise)
        delta = following.back(delta).reshape(layer.output) * slope
        bias = layer.module.bias
        if bias is not None:
            z = z - bias.detach().reshape(-1, *[1] * (z.ndim - 1))
        system = system_of(layer, delta, known)
        x = system.solve(found.dweight(layer), z, noise=noise, balanced=balanced).reshape(
            layer.shape
        )
        ranks.append(measured(layer.name, layer.shape, system))
    return x, carried(tuple(reversed(ranks)))


def _finished(found: Recursion, start: Beginning, seeds: Seeds, *, balanced: bool) -> _Guess:
    """Return the example that one start leads to, its label, and how well the update is then matched."""
    seen, ranks = recurse(found, start, balanced=balanced)
    targets = found.label_of(start, seeds)
    unit, inputs = found.inputs(seen)
    residual = None if targets is None else found.residual(unit, targets)
    return _Guess(inputs, targets, residual, ranks)
