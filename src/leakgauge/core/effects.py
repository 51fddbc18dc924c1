"""Effects: what a defense states about itself, as data that an adaptive adversary reads.

A defense may have an attribute `effects`, a tuple of objects of the classes below. A defense
without the attribute has no effects. Several parts of a defense may have effects of one kind.
`effect(observation, Noise)` joins these effects of the known defense into one.
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
"""The distribution of a noise."""
Protected = Literal["example", "client"]
"""What a privacy bound protects: one example of a client, or one client among all."""


@dataclass(frozen=True, kw_only=True)
class Effect:
    """One change that a defense makes to what the adversary observes. An adaptive adversary simulates it."""

    def __post_init__(self) -> None:
        """Raise SpecificationError if a field is of another kind than its annotation, or out of range."""
        check_fields(self)

    @classmethod
    def together(cls, effects: Sequence[Self]) -> Self | None:
        """Return the joint effect of a defense's parts, given in the order in which they act.

        Return None if there is no effect, or if the joint effect is not known.
        """
        if len(effects) > 1:
            return cls.joined(effects)
        return effects[0] if effects else None

    @classmethod
    def joined(cls, effects: Sequence[Self]) -> Self | None:
        """Return the joint effect of two or more parts, or None if it is not known."""
        return None


@dataclass(frozen=True, kw_only=True)
class ZeroMeanNoise(Effect):
    """Independent noise with mean zero. Subclasses say where it is added.

    The variances of independent noises add up.

    Args:
        std: Standard deviation, at least 0, in the update's own units.
        law: Distribution. The sum of several noises is treated as Gaussian.
    """

    std: NonNegative
    law: NoiseLaw = "gaussian"

    @classmethod
    def together(cls, effects: Sequence[Self]) -> Self | None:
        """Return the sum of the noises, or None if no deviation is larger than 0."""
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
    """Zero-mean noise on the sum over a batch.

    On the batch mean, its deviation is `std` divided by B.
    """

    def on_mean(self, count: int) -> Noise:
        """Return the noise on the mean of `count` examples."""
        return Noise(std=self.std / count, law=self.law)


@dataclass(frozen=True, kw_only=True)
class Rounding(Effect):
    """Random rounding of each entry, up or down, to a multiple of its step. Its mean error is zero.

    The effect counts only for the last part of a defense. A part that acts later changes the
    rounded values, which are then no longer multiples of the step.

    Args:
        steps: A function from an observed update to the step of each entry, by parameter name. A
            step is positive, and infinite if the update does not reveal it. The tensors have the
            shapes of the parameters.
    """

    steps: Callable[[Update], Tensors]


@dataclass(frozen=True, kw_only=True)
class Encoding(Effect):
    """A short format, in which each value is sent in fewer than 32 bits.

    Args:
        bits: Bits of each value, at least 1.
    """

    bits: Count

    @classmethod
    def joined(cls, effects: Sequence[Self]) -> Self:
        """Return the encoding with the fewest bits."""
        return min(effects, key=lambda encoding: encoding.bits)


@dataclass(frozen=True, kw_only=True)
class InUpdateUnits(Effect):
    """A mark of defenses whose options are in the update's own units. The options mean nothing for a scaled update."""

    @classmethod
    def joined(cls, effects: Sequence[Self]) -> Self:
        """Return the first effect. All effects of this kind are equal."""
        return effects[0]


@dataclass(frozen=True, kw_only=True)
class PrivacyBound(Effect):
    """A bound by differential privacy.

    Args:
        protects: What is protected: the presence of one example of a client, or of one client among
            all.
        epsilon: A function, called as `epsilon(steps=, sample_rate=, delta=)`. The sample rate, in
            (0, 1], is the probability that the protected example or client takes part in a step. It
            returns the epsilon of (epsilon, delta)-differential privacy after all steps. It raises
            SpecificationError if its accountant is not installed.
    """

    protects: Protected
    epsilon: Callable[..., float]


@dataclass(frozen=True, kw_only=True)
class ChangedTraining(Effect):
    """A different gradient computation. An adversary can simulate it, except for its random draws.

    Args:
        simulated: A function from a local training to the forward operator of an adaptive
            adversary.
    """

    simulated: Callable[[LocalTraining], LocalTraining]

    @classmethod
    def joined(cls, effects: Sequence[Self]) -> Self:
        """Return the composition, in the order of the parts."""
        return cls(
            simulated=lambda inner: reduce(lambda t, each: each.simulated(t), effects, inner)
        )


@dataclass(frozen=True, kw_only=True)
class Misleading(Effect):
    """Entries of the update that carry no information about the batch, or false information.

    Args:
        believed: A function from the observed update to the update that an adaptive adversary
            matches. It is zero at entries without information. The defense's `adapt` also returns
            zero there.
    """

    believed: Callable[[Update], Update]

    @classmethod
    def joined(cls, effects: Sequence[Self]) -> Self:
        """Return the composition, in the order of the parts."""
        return cls(believed=lambda seen: reduce(lambda u, each: each.believed(u), effects, seen))


@dataclass(frozen=True, kw_only=True)
class HiddenModel(Effect):
    """A network that the server does not hold in full.

    Args:
        shown: A function, called as `shown(model, seeds=)`. It returns the client's network as the
            server holds it. The parts that the server lacks are drawn anew. `model` itself is not
            changed.
    """

    shown: Callable[..., nn.Module]

    @classmethod
    def joined(cls, effects: Sequence[Self]) -> Self:
        """Return the composition, in the order of the parts."""

        def shown(model: nn.Module, *, seeds: Seeds) -> nn.Module:
            for each in effects:
                model = each.shown(model, seeds=seeds)
            return model

        return cls(shown=shown)


@dataclass(frozen=True, kw_only=True)
class KeptLocal(Effect):
    """Parameters that a client keeps for itself.

    It never sends them, and the server never sets them.

    Args:
        names: A function from the names of all trained parameters, in the model's order, to the
            names of the kept ones.
    """

    names: Callable[[Sequence[str]], frozenset[str]]

    @classmethod
    def joined(cls, effects: Sequence[Self]) -> Self:
        """Return the union: a parameter is kept if any part keeps it."""

        def names(held: Sequence[str]) -> frozenset[str]:
            return frozenset[str]().union(*(each.names(held) for each in effects))

        return cls(names=names)


@dataclass(frozen=True, kw_only=True)
class RoundMemory(Effect):
    """Tensors that the client carries from one round to the next.

    The defense's `on_update` acts as in the first round.

    Args:
        remember: A function, called as `remember(update, memory, seeds=)`. `memory` holds the
            tensors kept after the round before, and is empty in the first round. It returns the
            update that leaves the client, and the tensors to keep.
    """

    remember: Callable[..., tuple[Update, Tensors]]


@dataclass(frozen=True, kw_only=True)
class ChangedExamples(Effect):
    """Training on changed examples instead of the private ones. Subclasses describe the change."""


@dataclass(frozen=True, kw_only=True)
class MixedExamples(ChangedExamples):
    """Training on mixtures of the batch's examples and of their targets.

    The targets must be probabilities (B, K).

    Args:
        per_mixture: Number of examples in one mixture.
        mirror: Center, in the data's own units, around which each value is mirrored at random. None
            if no value is mirrored.
        weights: A function, called as `weights(count, seeds=)`. It draws the weights of `count`
            examples in each mixture, as the client does. It returns (B, B), one row for each
            mixture.
    """

    per_mixture: Count
    mirror: float | None = None
    weights: Callable[..., Tensor]


@dataclass(frozen=True, kw_only=True)
class TransformedExamples(ChangedExamples):
    """Training on transformed examples. The map for each example is drawn from a short list.

    Args:
        maps: The maps that may be drawn. Each is differentiable, from `(B, *shape)` to `(B,
            *shape)`, in the data's own units.
    """

    maps: tuple[Callable[[Tensor], Tensor], ...]


@dataclass(frozen=True, kw_only=True)
class ErasedPatches(ChangedExamples):
    """Training on images in which squares at random places are overwritten by one value.

    Args:
        fill: The value, in the data's own units.
        side: Side of a square, in pixels. The squares form a grid from the upper left corner. The
            last ones are cut.
        fraction: Fraction of all squares, in [0, 1), rounded down to whole squares.
    """

    fill: float
    side: Count
    fraction: Fraction

    def squares(self, height: int, width: int) -> int:
        """Return the number of squares that cover an image of `height` by `width` pixels."""
        return -(-height // self.side) * -(-width // self.side)

    def erased(self, height: int, width: int) -> int:
        """Return the number of squares of an image that are overwritten."""
        return int(self.fraction * self.squares(height, width))


@dataclass(frozen=True, kw_only=True)
class ConcealedExamples(ChangedExamples):
    """Training on each private example together with an invented example of another class.

    Args:
        mixing: Weight, in [0, 1], of the invented example's own class in its target. The rest is
            the weight of the private class.
        divisor: The number by which the sum of the two mean losses is divided.
    """

    mixing: float
    divisor: float
