"""Repairs of the masks behind layers: bits are flipped as long as the misfit of their gradients falls.

References:
    Ours. We know of no publication.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, fx

from leakgauge.analytic.convolutions.bits import Gap
from leakgauge.analytic.convolutions.equations import GradientOf
from leakgauge.analytic.convolutions.inputs import Solved
from leakgauge.analytic.convolutions.network import Convolution, Network
from leakgauge.analytic.convolutions.operations import batch_norm_of, name_of
from leakgauge.analytic.convolutions.propagation import Propagation, is_relu
from leakgauge.core import Inapplicable

ROUNDED = 4e-7
"""Relative misfit that the rounding of float32 explains."""
REPAIRS = 60
"""Largest number of times that bits of one layer are repaired."""
SURE = 3e-6
"""Relative misfit above which the least certain bits are flipped one by one."""
TRIALS, BETTER = 40, 0.95
"""Number of these bits, and the fraction of the misfit that a flip may leave."""
FEW = 8
"""Least number of bits tried, where a solution takes long."""
WORK = 1.2e10
"""Products that all flips tried in one layer may take, counted as equations times the square of the unknowns."""


@dataclass(frozen=True, eq=False)
class Explained:
    """Gradients of layers that share an input, and what is left of them.

    Args:
        pairs: The layers and their gradients.
        inputs: Their input (B, C, N).
        gap: What is not explained (rows, C).
        leverage: Orthonormal columns (rows, rank) of the equations from which the input follows.
        misfit: Relative size of the gap.
        solved: The solution that gave the input, or None if it was known before.
    """

    pairs: list[tuple[Convolution, GradientOf]]
    inputs: Tensor
    gap: Tensor
    leverage: Tensor | None
    misfit: float
    solved: Solved | None = None


@dataclass(frozen=True, eq=False)
class Earlier:
    """What was known before the signals behind some layers were settled.

    Args:
        relus: The ReLUs behind these layers.
        signals: The signals that were known.
    """

    relus: Sequence[fx.Node]
    signals: Mapping[fx.Node, Tensor]


@dataclass(frozen=True, eq=False)
class Repair:
    """The search for wrong bits in the masks behind layers that share an input.

    Args:
        known: What is known of the nodes. Its masks change.
        explain: Explains the gradients with the present masks.
        least: Misfit below which no bit is searched.
        sure: Misfit above which the least certain bits are flipped one by one.
        earlier: The layers that were read just before, the last ones first.
    """

    known: Propagation
    explain: Callable[[], Explained | Inapplicable]
    least: float
    sure: float
    earlier: Sequence[Earlier] = ()

    def run(self) -> tuple[Explained, int] | Inapplicable:
        """Return the gradients with their masks repaired, and the number of flipped bits."""
        best, repaired = self.explain(), 0
        if isinstance(best, Inapplicable):
            return best
        for _ in range(REPAIRS):
            best, flipped = self._matched(best)
            if not flipped and best.misfit > self.sure:
                best, flipped = self._tried(best, self._behind(best))
            if not flipped and best.misfit > self.sure:
                best, flipped = self._traced_back(best)
            repaired += flipped
            if not flipped:
                break
        return best, repaired

    def _matched(self, best: Explained) -> tuple[Explained, int]:
        """Flip the bits that explain the gap. Return what is left then, and the number of flips.

        If several flips at once do not lower the misfit, those of the largest gaps are tried alone.
        """
        if best.misfit < self.least:
            return best, 0
        for share in (0.05, 0.9):
            flips = self._flips(best, share)
            count = sum(int(wrong.sum()) for wrong in flips.values())
            if not count:
                break
            self._flip(flips)
            trial = self.explain()
            if not isinstance(trial, Inapplicable) and trial.misfit < best.misfit:
                return trial, count
            self._flip(flips)
        return best, 0

    def _traced_back(self, best: Explained) -> tuple[Explained, int]:
        """Try the bits of masks behind the layers that were read before.

        The gradient of their own layer may hide a wrong bit, while it spoils the signals below.
        """
        settled = self.known.signals
        for each in self.earlier:
            self.known.signals = dict(each.signals)
            found, flipped = self._tried(best, each.relus)
            if flipped:
                return found, flipped
        self.known.signals = settled
        return best, 0

    def _tried(self, best: Explained, relus: Iterable[fx.Node]) -> tuple[Explained, int]:
        """Flip the one of the least certain bits of masks that lowers the misfit most, if it does so by much.

        Where equations are barely more than unknowns, the gap does not show which bit is wrong.
        """
        least, chosen = BETTER * best.misfit, None
        for relu, place in self._least_certain(best, relus):
            self._flip_one(relu, place)
            trial = self.explain()
            self._flip_one(relu, place)
            if not isinstance(trial, Inapplicable) and trial.misfit < least:
                least, chosen = trial.misfit, (relu, place, trial)
                if least < self.sure:
                    break
        if chosen is None:
            return best, 0
        relu, place, trial = chosen
        self._flip_one(relu, place)
        return trial, 1

    def _behind(self, state: Explained) -> set[fx.Node]:
        """Return the ReLUs behind the layers."""
        found = (relu_behind(self.known.network, layer.node) for layer, _ in state.pairs)
        return {relu for relu in found if relu is not None}

    def _least_certain(
        self, state: Explained, relus: Iterable[fx.Node]
    ) -> list[tuple[fx.Node, int]]:
        """Return the bits of masks that are closest to being decided otherwise."""
        unknowns = state.inputs.shape[0] * state.inputs.shape[-1]
        work = len(state.gap) * unknowns**2
        most = TRIALS if state.solved is None else min(TRIALS, max(FEW, int(WORK / work)))
        found = []
        for relu in relus:
            if relu in self.known.margins:
                margins = self.known.margins[relu].flatten()
                order = margins.topk(min(most, len(margins)), largest=False).indices
                found += [(float(margins[i]), relu, i) for i in order.tolist()]
        return [(relu, i) for _, relu, i in sorted(found, key=lambda each: each[0])[:most]]

    def _flip_one(self, relu: fx.Node, place: int) -> None:
        """Flip one bit of a mask, given its place in the flattened mask."""
        mask = self.known.masks[relu].flatten().clone()
        mask[place] = ~mask[place]
        self.known.masks[relu] = mask.reshape(self.known.masks[relu].shape)

    def _flips(self, state: Explained, share: float) -> dict[fx.Node, Tensor]:
        """Return the bits to flip, by ReLU.

        Args:
            state: The gradients as they are explained now.
            share: Least squared gap of a channel that is searched, relative to the largest one.
        """
        gaps: dict[fx.Node, Gap] = {}
        start = 0
        for layer, gradient in state.pairs:
            rows = slice(start, start + len(gradient.right))
            start = rows.stop
            relu = relu_behind(self.known.network, layer.node)
            if relu is not None and relu not in gaps:
                leverage = None if state.leverage is None else state.leverage[rows]
                gaps[relu] = Gap(gradient, state.inputs, state.gap[rows], leverage)
        most = max((float(gap.energy.max()) for gap in gaps.values()), default=0.0)
        return {relu: gap.wrong_bits(share * most) for relu, gap in gaps.items()} if most else {}

    def _flip(self, flips: Mapping[fx.Node, Tensor]) -> None:
        """Flip bits (B, O, P) of masks."""
        for relu, wrong in flips.items():
            self.known.flip(relu, wrong.reshape(self.known.masks[relu].shape))


def relu_behind(network: Network, node: fx.Node) -> fx.Node | None:
    """Return the ReLU that follows a node through normalization and additions alone, or None."""
    while True:
        users = network.users(node)
        if len(users) != 1:
            return None
        (node,) = users
        if is_relu(node):
            return node
        if name_of(node) not in ("getitem", "add") and batch_norm_of(node) is None:
            return None
