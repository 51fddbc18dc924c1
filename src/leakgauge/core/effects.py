"""What a defense says of itself, as data that an adaptive adversary reads.

A defense has an attribute `effects`, a tuple of the classes below. It may leave the attribute out: then it has none.
`effect(observation, Noise)` is the joint effect of one kind of all parts of the known defense.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Literal, Self

from torch import Tensor, nn

from leakgauge.core.protocols import LocalTraining
from leakgauge.core.ranges import Count, Fraction, NonNegative, check_fields
from leakgauge.core.seeds import Seeds
from leakgauge.core.update import Tensors, Update

NoiseLaw = Literal["gaussian", "laplacian"]
Protected = Literal["example", "client"]


@dataclass(frozen=True, kw_only=True)
class Effect:
    """One thing that a defense does to what is seen, as an adversary who knows the defense simulates it."""

    def __post_init__(self) -> None:
        """Raise SpecificationError if a field is of another kind than its annotation, or out of range."""
        check_fields(self)

    @classmethod
    def together(cls, effects: Sequence[Self]) -> Self | None:
        """Return the joint effect of a defense's parts in their order, or None if there is none or it is not known."""
        if len(effects) > 1:
            return cls.joined(effects)
        return effects[0] if effects else None

    @classmethod
    def joined(cls, effects: Sequence[Self]) -> Self | None:
        """Return the joint effect of two parts or more, or None if it is not known."""
        return None


@dataclass(frozen=True, kw_only=True)
class ZeroMeanNoise(Effect):
    """Independent noise of mean zero. Subclasses say what it is added to. Independent noises add their variances.

    Args:
        std: standard deviation, at least 0, in the update's own units.
        law: the distribution. The sum of several noises is taken for Gaussian.
    """

    std: NonNegative
    law: NoiseLaw = "gaussian"

    @classmethod
    def together(cls, effects: Sequence[Self]) -> Self | None:
        """Return the sum of the noises, or None if none is larger than 0."""
        some = [noise for noise in effects if noise.std > 0]
        if not some:
            return None
        law = some[0].law if len(some) == 1 else "gaussian"
        return replace(some[0], std=math.hypot(*(noise.std for noise in some)), law=law)


@dataclass(frozen=True, kw_only=True)
class Noise(ZeroMeanNoise):
    """Zero-mean noise on each entry of the update."""


@dataclass(frozen=True, kw_only=True)
class BatchNoise(ZeroMeanNoise):
    """Zero-mean noise on the sum over a batch, and so on its mean. Its deviation falls with the batch size."""

    def on_mean(self, count: int) -> Noise:
        """Return the noise on the mean of `count` examples."""
        return Noise(std=self.std / count, law=self.law)


@dataclass(frozen=True, kw_only=True)
class Rounding(Effect):
    """Each entry is rounded up or down at random to a multiple of its step, right on average.

    It is an effect of the last part alone: what acts later leaves other values than multiples.

    Args:
        steps: from an observed update to the step of each entry, positive, by parameter name and of the entry's shape.
            A step is infinite if the update does not tell it.
    """

    steps: Callable[[Update], Tensors]


@dataclass(frozen=True, kw_only=True)
class Encoding(Effect):
    """Each value is sent in fewer than 32 bits.

    Args:
        bits: of each value, at least 1.
    """

    bits: Count

    @classmethod
    def joined(cls, effects: Sequence[Self]) -> Self:
        """Return the shortest format."""
        return min(effects, key=lambda encoding: encoding.bits)


@dataclass(frozen=True, kw_only=True)
class InUpdateUnits(Effect):
    """The defense has options in the update's own units. They mean nothing on an update that was scaled."""

    @classmethod
    def joined(cls, effects: Sequence[Self]) -> Self:
        """Return the effect: any part suffices."""
        return effects[0]


@dataclass(frozen=True, kw_only=True)
class PrivacyBound(Effect):
    """A bound by differential privacy.

    Args:
        protects: what the defense hides the presence of: one example of a client's, or one client of all.
        epsilon: called as epsilon(steps=, sample_rate=, delta=), with the probability in (0, 1] that what is protected
            takes part in a step. It returns the epsilon of (epsilon, delta)-differential privacy after all steps. It
            raises SpecificationError if its accountant is not installed.
    """

    protects: Protected
    epsilon: Callable[..., float]


@dataclass(frozen=True, kw_only=True)
class ChangedTraining(Effect):
    """Another gradient computation, which can be simulated but for its draws.

    Args:
        simulated: from a local training to the forward operator of an adversary who knows the defense.
    """

    simulated: Callable[[LocalTraining], LocalTraining]

    @classmethod
    def joined(cls, effects: Sequence[Self]) -> Self:
        """Return the composition in the parts' order."""
        return cls(
            simulated=lambda inner: reduce(lambda t, each: each.simulated(t), effects, inner)
        )


@dataclass(frozen=True, kw_only=True)
class Misleading(Effect):
    """A part of the update says nothing of the batch, or what is not so.

    Args:
        believed: from the observed update to the update that an adaptive adversary matches: zero where it says
            nothing. The defense's `adapt` is zero there too.
    """

    believed: Callable[[Update], Update]

    @classmethod
    def joined(cls, effects: Sequence[Self]) -> Self:
        """Return the composition in the parts' order."""
        return cls(believed=lambda seen: reduce(lambda u, each: each.believed(u), effects, seen))


@dataclass(frozen=True, kw_only=True)
class HiddenModel(Effect):
    """The server does not hold the whole network.

    Args:
        shown: called as shown(model, seeds=). It returns the client's network as the server holds it. What the server
            lacks is drawn anew. `model` stays as it was.
    """

    shown: Callable[..., nn.Module]

    @classmethod
    def joined(cls, effects: Sequence[Self]) -> Self:
        """Return the composition in the parts' order."""

        def shown(model: nn.Module, *, seeds: Seeds) -> nn.Module:
            for each in effects:
                model = each.shown(model, seeds=seeds)
            return model

        return cls(shown=shown)


@dataclass(frozen=True, kw_only=True)
class KeptLocal(Effect):
    """A client keeps parameters of its own. They neither leave it nor come from the server.

    Args:
        names: from the names of all trained parameters, in the model's order, to the names of the kept ones.
    """

    names: Callable[[Sequence[str]], frozenset[str]]

    @classmethod
    def joined(cls, effects: Sequence[Self]) -> Self:
        """Return what any part keeps."""

        def names(held: Sequence[str]) -> frozenset[str]:
            return frozenset[str]().union(*(each.names(held) for each in effects))

        return cls(names=names)


@dataclass(frozen=True, kw_only=True)
class RoundMemory(Effect):
    """The client carries tensors from round to round. The defense's `on_update` is its first round.

    Args:
        remember: called as remember(update, memory, seeds=), with the tensors kept after the round before. They are
            none in the first round. It returns the update that leaves the client, and the tensors to keep.
    """

    remember: Callable[..., tuple[Update, Tensors]]


@dataclass(frozen=True, kw_only=True)
class ChangedExamples(Effect):
    """The client trains on other examples than the private ones. Subclasses say which."""


@dataclass(frozen=True, kw_only=True)
class MixedExamples(ChangedExamples):
    """The client trains on mixtures of the batch's examples and of their targets. It gets targets (B, K).

    Args:
        per_mixture: how many examples make one mixture.
        mirror: the value, in the data's own units, about which each value is mirrored at random. None if none is.
        weights: called as weights(count, seeds=). It draws, as the client does, the weight of each of `count` examples
            in each mixture: (B, B), one row a mixture.
    """

    per_mixture: Count
    mirror: float | None = None
    weights: Callable[..., Tensor]


@dataclass(frozen=True, kw_only=True)
class TransformedExamples(ChangedExamples):
    """Each example goes through a map of its own, which is drawn from a few.

    Args:
        maps: each map that may be drawn, differentiable, from (B, *shape) to (B, *shape) in the data's own units.
    """

    maps: tuple[Callable[[Tensor], Tensor], ...]


@dataclass(frozen=True, kw_only=True)
class ErasedPatches(ChangedExamples):
    """Squares of each image are overwritten by one value, at random places in each image.

    Args:
        fill: the value, in the data's own units.
        side: of a square, in pixels. Squares lie on a grid from the upper left corner; the last are cut.
        fraction: of all squares, in [0, 1), rounded down to whole squares.
    """

    fill: float
    side: Count
    fraction: Fraction

    def squares(self, height: int, width: int) -> int:
        """Return how many squares cover an image."""
        return -(-height // self.side) * -(-width // self.side)

    def erased(self, height: int, width: int) -> int:
        """Return how many squares of an image are overwritten."""
        return int(self.fraction * self.squares(height, width))


@dataclass(frozen=True, kw_only=True)
class ConcealedExamples(ChangedExamples):
    """An invented example of another class stands beside each private one.

    Args:
        mixing: weight of the invented example's own class in its target, in [0, 1]. The rest is the private class.
        divisor: what the sum of the two mean losses is divided by.
    """

    mixing: float
    divisor: float
