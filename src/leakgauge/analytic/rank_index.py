"""Rank analysis: the layers of a chain whose equations leave their input undetermined.

The index of a layer is `rank [W; K] - |x|`, with its weight constraints W, gradient constraints K
and `|x|` unknowns. At index 0 the equations determine the layer's input. A negative index is minus
the number of unknowns that remain undetermined. The recursion succeeds if every index is 0.

The surplus equations of a layer can determine open unknowns of later layers, by a search (the
paper's virtual constraints). `LayerRank.open` counts the unknowns that then remain.

References:
    Zhu, Blaschko. R-GAP: Recursive Gradient Attack on Privacy. ICLR 2021, section 4.
    arXiv:2010.07733.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from leakgauge.analytic.chain import Chain, chain_of, why_pooled
from leakgauge.analytic.constraints import System, system_of, too_large
from leakgauge.core import Domain, Inapplicable, unit_shape


@dataclass(frozen=True)
class LayerRank:
    """Numbers of equations and unknowns of one layer.

    Args:
        name: Name of the layer.
        unknowns: Number of entries of its input.
        weight: Number of weight constraints.
        gradient: Rank of the gradient constraints.
        rank: Rank of both together.
        open: Number of unknowns that remain open after this layer and all later ones, by counting
            equations.
    """

    name: str
    unknowns: int
    weight: int
    gradient: int
    rank: int
    open: int = 0

    @property
    def index(self) -> int:
        """Rank minus unknowns, which is 0 if the layer's input is determined."""
        return self.rank - self.unknowns

    @property
    def line(self) -> str:
        """The numbers as one line of a printed diagnosis."""
        return (
            f"{self.name}: {self.unknowns} unknowns; {self.weight} weight and {self.gradient} "
            f"gradient constraints, rank {self.rank}: index {self.index}, {self.open} open"
        )


def rank_index(
    model: nn.Module, domain: Domain, *, generator: torch.Generator
) -> tuple[LayerRank, ...] | Inapplicable:
    """Return the ranks of a network's layers from input to output, or the reason why there are none.

    The ranks are computed for a random input and a random derivative at the output. No data, label
    or loss is needed. They vary with the input only if there are ReLUs, whose zeros change the
    number of weight constraints.

    Args:
        model: The network. It must be a chain.
        domain: The domain of the inputs.
        generator: Source of the input and of the derivative.

    Example:
        >>> import torch
        >>> import leakgauge as lg
        >>> from leakgauge.analytic.rank_index import rank_index
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Conv2d(1, 4, 3), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(144, 10)
        ... )
        >>> generator = torch.Generator().manual_seed(0)
        >>> for layer in rank_index(model, lg.examples.client().domain, generator=generator):
        ...     print(layer.line)
        0: 64 unknowns; 144 weight and 36 gradient constraints, rank 64: index 0, 0 open
        3: 144 unknowns; 10 weight and 144 gradient constraints, rank 144: index 0, 0 open
    """
    chain = chain_of(model, domain)
    if isinstance(chain, Inapplicable):
        return chain
    reasons = (why_pooled(chain), *map(too_large, chain.layers))
    reason = next((reason for reason in reasons if reason is not None), None)
    if reason is not None:
        return Inapplicable(reason)
    unit = torch.rand((1, *unit_shape(domain)), generator=generator, dtype=torch.float64)
    found = []
    for layer, (delta, follows) in zip(chain.layers, _deltas(chain, unit, generator), strict=True):
        _, known, _ = layer.deactivate(follows)
        found.append(measure_rank(layer.name, layer.shape, system_of(layer, delta, known)))
    return carry_open(found)


def measure_rank(name: str, shape: Sequence[int], system: System) -> LayerRank:
    """Return the ranks of one layer's equations. `shape` is that of its input."""
    rows, unknowns = int(system.known.sum()), torch.Size(shape).numel()
    return LayerRank(name, unknowns, rows, system.gradient_rank, system.rank())


def carry_open(layers: Sequence[LayerRank]) -> tuple[LayerRank, ...]:
    """Return the layers, from input to output, with the open unknowns at each."""
    left, found = 0, []
    for layer in reversed(layers):
        surplus = layer.weight + layer.gradient - layer.unknowns
        left = max(0, -layer.index, left - surplus)
        found.append(
            LayerRank(layer.name, layer.unknowns, layer.weight, layer.gradient, layer.rank, left)
        )
    return tuple(reversed(found))


def _deltas(chain: Chain, unit: Tensor, generator: torch.Generator) -> list[tuple[Tensor, Tensor]]:
    """Return dL/dz `(*output)` and the activation `(*output)` of each layer, for a random linear L of the output."""
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
