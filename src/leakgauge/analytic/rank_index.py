"""Rank analysis (Zhu and Blaschko 2021, section 4): which layers of a chain leave its input undetermined.

    index of a layer = rank [W; K] - |x|          0: its equations tell its input; below: so many they do not

The recursion succeeds where every index is 0. A layer's surplus of equations can make up, by search, for
what the layers behind it left open (the paper's virtual constraints): `open` counts what then remains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from leakgauge.analytic.chain import Chain, chain_of, unpooled
from leakgauge.analytic.constraints import System, system_of, too_large
from leakgauge.core import Domain, Inapplicable, unit_shape


@dataclass(frozen=True)
class LayerRank:
    """Equations and unknowns of one layer: weight rows, rank of the gradient rows, rank of both.

    open: unknowns left after all layers from the output to this one, by counting equations.
    """

    name: str
    unknowns: int
    weight: int
    gradient: int
    rank: int
    open: int = 0

    @property
    def index(self) -> int:
        """rank - unknowns: 0 where the layer's input is determined."""
        return self.rank - self.unknowns

    @property
    def line(self) -> str:
        """For a printed diagnosis."""
        return (
            f"{self.name}: {self.unknowns} unknowns; {self.weight} weight and {self.gradient} "
            f"gradient constraints, rank {self.rank}: index {self.index}, {self.open} open"
        )


def rank_index(
    model: nn.Module, domain: Domain, *, generator: torch.Generator
) -> tuple[LayerRank, ...] | Inapplicable:
    """The layers of a network from input to output; or in one line why it is no chain, or too large.

    Ranks are those of a random input and of a random derivative at the output, drawn from `generator`:
    no data, label or loss is asked for. Only a ReLU's pattern, and so its weight rows, vary with the input.
    """
    chain = chain_of(model, domain)
    if isinstance(chain, Inapplicable):
        return chain
    reasons = (unpooled(chain), *map(too_large, chain.layers))
    reason = next((reason for reason in reasons if reason is not None), None)
    if reason is not None:
        return Inapplicable(reason)
    unit = torch.rand((1, *unit_shape(domain)), generator=generator, dtype=torch.float64)
    found = []
    for layer, (delta, follows) in zip(chain.layers, _deltas(chain, unit, generator), strict=True):
        _, known, _ = layer.deactivate(follows)
        found.append(measured(layer.name, layer.shape, system_of(layer, delta, known)))
    return carried(found)


def measured(name: str, shape: Sequence[int], system: System) -> LayerRank:
    """The ranks of one layer's equations."""
    rows, unknowns = int(system.known.sum()), torch.Size(shape).numel()
    return LayerRank(name, unknowns, rows, system.gradient_rank, system.rank())


def carried(layers: Sequence[LayerRank]) -> tuple[LayerRank, ...]:
    """The layers, from input to output, with what is open at each."""
    left, found = 0, []
    for layer in reversed(layers):
        surplus = layer.weight + layer.gradient - layer.unknowns
        left = max(0, -layer.index, left - surplus)
        found.append(
            LayerRank(layer.name, layer.unknowns, layer.weight, layer.gradient, layer.rank, left)
        )
    return tuple(reversed(found))


def _deltas(chain: Chain, unit: Tensor, generator: torch.Generator) -> list[tuple[Tensor, Tensor]]:
    """dL/dz (*output), and what follows z (*output), for each layer, L a random direction of the output."""
    x = chain.enter(unit)
    outputs, follows = [], []
    for layer in chain.layers:
        z = layer.module(x.reshape(1, *layer.shape)).detach().requires_grad_()
        outputs.append(z)
        x = layer.activate(z[0]).unsqueeze(0).detach()
        follows.append(x[0])
    delta = torch.randn(outputs[-1][0].shape, generator=generator, dtype=torch.float64)
    found = [delta]
    for i in range(len(chain.layers) - 1, 0, -1):
        _, _, slope = chain.layers[i - 1].deactivate(follows[i - 1])
        back = chain.layers[i].back(found[-1]).reshape(chain.layers[i - 1].output)
        found.append(back * slope)
    return list(zip(reversed(found), follows, strict=True))
