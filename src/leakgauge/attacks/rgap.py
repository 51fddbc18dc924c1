"""R-GAP: one example in closed form, by a recursion from the output of a network to its input."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from leakgauge.analytic.chain import why_pooled
from leakgauge.analytic.constraints import system_of, too_large
from leakgauge.analytic.rank_index import LayerRank, carry_open, measure_rank
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
from leakgauge.core.verdicts import report_nothing_found


@dataclass(frozen=True, kw_only=True)
class RGAP(BaseAttack):
    r"""Recover one example in closed form, through a chain of convolutions and linear layers without pools.

    Use it at batch size 1 on chains with invertible activations, such as LeakyReLU. It is exact if
    every layer has enough equations. The notes give the rank of each layer's system of equations.

    At the last layer, :math:`\partial L / \partial W = \delta h^\top` gives the layer's input
    :math:`h` and :math:`\delta = \partial L / \partial z`, with the loss :math:`L`. From there the
    recursion goes to the input, layer by layer. A layer has the input :math:`x`, the weight
    :math:`W`, the bias :math:`b` and the activation :math:`\sigma`. Its output is
    :math:`h = \sigma(z)` with :math:`z = W x + b`:

    .. math::

        z = \sigma^{-1}(h), \qquad
        \delta = \sigma'(z) \odot (W_{\text{next}}^\top \delta_{\text{next}}), \qquad
        \begin{bmatrix} K(\delta) \\ W \end{bmatrix} x
        = \begin{bmatrix} \partial L / \partial W \\ z - b \end{bmatrix}

    The last system is solved for the layer's input :math:`x` by least squares. :math:`K(\delta)`
    holds the equations of the layer's gradient. The rank of the system shows whether it determines
    :math:`x`.

    A linear layer with a bias gives :math:`\delta = \partial L / \partial b` and :math:`h` directly.
    So the recursion starts at the first linear layer with a bias, and the layers after it do not
    matter.

    Args:
        rows: Weights of the two blocks of the system. "plain" has no weights, as in the paper.
            "balanced", the default, divides each block by the norm of its right side. It is ours.
            With it, float32 updates give exact results, too.

    References:
        Zhu, Blaschko. R-GAP: Recursive Gradient Attack on Privacy. ICLR 2021, sections 3.2 and 4,
        equations 12, 13 and 15. arXiv:2010.07733.

        Phong, Aono, Hayashi, Wang, Moriai. Privacy-Preserving Deep Learning via Additively
        Homomorphic Encryption. IEEE Transactions on Information Forensics and Security 13(5), 2018,
        for layers with a bias.

    Example:
        >>> import leakgauge as lg
        >>> domain = lg.data.digits().domain
        >>> model = lg.models.build(lg.models.cnn, domain, 10)
        >>> observation = lg.examples.observation(batch_size=1, model=model)
        >>> attack = lg.attacks.RGAP()
        >>> attack(observation, seeds=lg.Seeds(0)).status
        <Status.CERTIFIED: 'certified'>
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
        reasons = (why_pooled(found.chain), *map(too_large, solved))
        reason = next((reason for reason in reasons if reason is not None), None)
        if reason is not None:
            return Inapplicable(reason)
        return Plan(evaluations=3, search=partial(self.search, found))

    def search(self, found: Recursion, seeds: Seeds, progress: Progress) -> Reconstruction:
        """Return the best of the examples to which the starts of the recursion lead."""
        results: list[_Result] = []

        def best() -> Reconstruction:
            return min(results, key=lambda result: result.misfit).reconstruction(len(results))

        with seeds.isolated("simulation"):
            beginnings = found.beginnings()
            # The search for the starts counts as one part of the work.
            parts = len(beginnings) + 1
            progress(Moment(1 / parts))
            for start in beginnings:
                results.append(_finish(found, start, seeds, balanced=self.rows == "balanced"))
                progress(Moment((1 + len(results)) / parts, len(results), best=best))
                if results[-1].misfit <= CERTIFIED_WITHIN:
                    break
        if not results:
            reason = "no label and output explain the gradient of the last layer"
            return report_nothing_found(found.observation, Status.UNCONVERGED, reason)
        return best()


@dataclass(frozen=True)
class _Result:
    """The example to which one start of the recursion leads.

    Args:
        inputs: The example `(1, *shape)` in data units.
        targets: Its label (1,). None if it is not known.
        residual: The relative residual of its update. None if no label is known.
        ranks: The rank of each layer's system.
    """

    inputs: Tensor
    targets: Tensor | None
    residual: float | None
    ranks: tuple[LayerRank, ...]

    @property
    def misfit(self) -> float:
        """Return the residual, infinite if no label is known to simulate with."""
        return math.inf if self.residual is None else self.residual

    def reconstruction(self, evaluations: int) -> Reconstruction:
        """Return the reconstruction. Its status follows from the residual and the ranks."""
        short = [layer for layer in self.ranks if layer.index < 0]
        status = Status.UNCONVERGED
        if self.misfit <= CONVERGED_WITHIN:
            status = Status.CONVERGED
        if self.misfit <= CERTIFIED_WITHIN and not short:
            status = Status.CERTIFIED
        determined = "every layer's input is determined"
        if short:
            # The recursion starts at the output, so the last entry is the first layer that it reaches.
            first = short[-1]
            determined = (
                f"rank index {first.index} at layer {first.name!r}: its input is not determined"
            )
        matched = "the label is not known, so the update is not compared"
        if self.residual is not None:
            matched = f"the update is matched to {self.residual:.2g} of its norm"
        return Reconstruction(
            inputs=self.inputs,
            targets=self.targets,
            found=torch.ones(1, dtype=torch.bool),
            status=status,
            message=f"{determined}; {matched}",
            residual=self.residual,
            cost=Cost(evaluations),
            notes=tuple(layer.line for layer in self.ranks),
        )


def recurse(
    found: Recursion, start: Beginning, *, balanced: bool
) -> tuple[Tensor, tuple[LayerRank, ...]]:
    """Return the input of the first layer, and the rank of the system of each layer on the way.

    Args:
        found: The chain of layers and the gradient.
        start: The start of the recursion.
        balanced: Whether to weight the blocks of each system.
    """
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
        ranks.append(measure_rank(layer.name, layer.shape, system))
    return x, carry_open(tuple(reversed(ranks)))


def _finish(found: Recursion, start: Beginning, seeds: Seeds, *, balanced: bool) -> _Result:
    """Return the example to which one start leads, with its label and its residual."""
    features, ranks = recurse(found, start, balanced=balanced)
    targets = found.label_of(start, seeds)
    unit, inputs = found.inputs(features)
    residual = None if targets is None else found.residual(unit, targets)
    return _Result(inputs, targets, residual, ranks)
