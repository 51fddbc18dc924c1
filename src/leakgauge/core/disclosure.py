"""What else a defense may say of itself to an adversary who knows it, and what that adversary makes of its parts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, Protocol, TypeVar, runtime_checkable

from torch import Tensor, nn

from leakgauge.core.defense import Defense, parts_of
from leakgauge.core.protocols import LocalTraining
from leakgauge.core.seeds import Seeds
from leakgauge.core.update import Tensors, Update

NoiseLaw = Literal["gaussian", "laplacian"]
Protected = Literal["example", "client"]
Part = TypeVar("Part")


@runtime_checkable
class AddsNoise(Defense, Protocol):
    """A defense that adds independent noise of mean zero to each entry of the update."""

    @property
    def std(self) -> float:
        """Its standard deviation, in the update's own units."""
        ...

    @property
    def law(self) -> NoiseLaw:
        """What it is drawn from."""
        ...


@runtime_checkable
class AddsNoiseByBatch(Defense, Protocol):
    """A defense that adds such noise to the mean over a batch, the less the larger it is."""

    @property
    def law(self) -> NoiseLaw:
        """What it is drawn from."""
        ...

    def std_of(self, count: int) -> float:
        """Its standard deviation on a batch of `count` examples, in the update's own units."""
        ...


@runtime_checkable
class RoundsAtRandom(Defense, Protocol):
    """A defense that rounds each entry up or down to a multiple of a step, by chance, right on average."""

    def steps(self, observed: Update) -> Tensors:
        """The step of each entry, as what was observed tells it: positive, infinite where nothing does."""
        ...


@runtime_checkable
class TellsEpsilon(Defense, Protocol):
    """A defense with a bound by differential privacy."""

    @property
    def protects(self) -> Protected:
        """What it hides the presence of: one example among a client's, or one client among all."""
        ...

    def epsilon(self, *, steps: int, sample_rate: float, delta: float) -> float:
        """The epsilon of (epsilon, delta)-differential privacy after so many steps; `sample_rate` of what it protects.

        Raises SpecificationError without what computes it.
        """
        ...


@runtime_checkable
class ChangesTraining(Defense, Protocol):
    """A defense whose gradient computation can be simulated, all but what is drawn in it."""

    def simulated(self, training: LocalTraining) -> LocalTraining:
        """The forward operator of an adversary who knows the defense."""
        ...


@runtime_checkable
class Misleads(Defense, Protocol):
    """A defense after which a part of the update says nothing of the batch, or what is not so."""

    def believed(self, observed: Update) -> Update:
        """What a knowing adversary matches: `observed`, zero where it says nothing. Then `adapt` is zero there too."""
        ...


@runtime_checkable
class HidesModel(Defense, Protocol):
    """A defense under which the server does not hold the whole network."""

    def shown(self, model: nn.Module, *, seeds: Seeds) -> nn.Module:
        """The client's network as the server holds it: what it lacks is drawn anew."""
        ...


@runtime_checkable
class KeepsLocal(Defense, Protocol):
    """A defense under which a client keeps parameters of its own: they neither leave it nor come from the server."""

    def local(self, names: Iterable[str]) -> frozenset[str]:
        """Which of the parameters of these names they are."""
        ...


@runtime_checkable
class Remembers(Defense, Protocol):
    """A defense that carries something from round to round. `on_update` is its first round."""

    def remember(
        self, update: Update, memory: Mapping[str, Tensor], *, seeds: Seeds
    ) -> tuple[Update, Tensors]:
        """What is sent, and the memory of the next round; `memory` is empty at the first, and left as it was."""
        ...


@runtime_checkable
class Mixes(Defense, Protocol):
    """A defense that trains on mixtures of the batch's examples, of their labels alike: it is given targets (B, K)."""

    @property
    def mixed(self) -> int:
        """How many examples make a mixture."""
        ...

    @property
    def mirror(self) -> float | None:
        """About which value, in the data's own units, each value is mirrored by chance; None where none is."""
        ...

    def weights(self, count: int, *, seeds: Seeds) -> Tensor:
        """How much of each of `count` examples each mixture holds, (B, B): drawn as the client draws it."""
        ...


@runtime_checkable
class Transforms(Defense, Protocol):
    """A defense that puts each example through a map of its own, drawn from a few."""

    @property
    def maps(self) -> tuple[Callable[[Tensor], Tensor], ...]:
        """Each map that may be drawn: (B, *shape) to such, in the data's own units; with a slope."""
        ...


@runtime_checkable
class Erases(Defense, Protocol):
    """A defense that overwrites a part of each image by one value, elsewhere in each."""

    @property
    def fill(self) -> float:
        """That value, in the data's own units."""
        ...

    @property
    def side(self) -> int:
        """The side of the squares that are overwritten, in pixels; they lie on a grid from the upper left corner."""
        ...

    def erased(self, height: int, width: int) -> int:
        """How many squares of an image are overwritten."""
        ...


@runtime_checkable
class Conceals(Defense, Protocol):
    """A defense that trains on an invented example of another class beside each one."""

    @property
    def mixing(self) -> float:
        """How much of the invented example's target is its own class; the rest is that of the concealed one."""
        ...

    @property
    def divisor(self) -> float:
        """What the sum of the two mean losses is divided by."""
        ...


def noise_of(
    defense: Defense | None, counts: Sequence[int | None] = (None,)
) -> tuple[float, NoiseLaw] | None:
    """Standard deviation and law of the noise that a defense leaves on each entry; None where it adds none.

    `counts`: how many examples each client's update is of, whose mean, weighted by them, is looked at; equal weights
    where one is not known, and then what depends on it is left out. Independent noises add their variances; the sum
    of several is taken for Gaussian.
    """
    known = [count for count in counts if count is not None]
    found: list[tuple[float, NoiseLaw]] = []
    for count in counts:
        weight = 1 / len(counts)
        if count is not None and len(known) == len(counts):
            weight = count / sum(known)
        found += [(weight * std, law) for std, law in _noises(defense, count) if std > 0]
    if not found:
        return None
    total = math.hypot(*(std for std, _ in found))
    return total, found[0][1] if len(found) == 1 else "gaussian"


def _noises(defense: Defense | None, count: int | None) -> list[tuple[float, NoiseLaw]]:
    """Of each part of a client's defense that adds any."""
    parts = parts_of(defense)
    noises = [(part.std, part.law) for part in parts if isinstance(part, AddsNoise)]
    if count is not None:
        by_batch = (part for part in parts if isinstance(part, AddsNoiseByBatch))
        noises += [(part.std_of(count), part.law) for part in by_batch]
    return noises


def rounding_of(defense: Defense | None) -> RoundsAtRandom | None:
    """The part that rounds at random, where it is the last to act; None where none does."""
    *_, last = (None, *parts_of(defense))
    return last if isinstance(last, RoundsAtRandom) else None


def simulated_training(defense: Defense | None, training: LocalTraining) -> LocalTraining:
    """The local training under a known defense, as far as it can be simulated."""
    for part in parts_of(defense):
        if isinstance(part, ChangesTraining):
            training = part.simulated(training)
    return training


def remembered(
    defense: Defense, update: Update, memory: Mapping[str, Tensor], *, seeds: Seeds
) -> tuple[Update, Tensors]:
    """What a defense sends in one round, and its memory of the next: none of one that carries nothing."""
    if isinstance(defense, Remembers):
        return defense.remember(update, memory, seeds=seeds)
    return defense.on_update(update, seeds=seeds), {}


def local_of(defense: Defense | None, names: Iterable[str]) -> frozenset[str]:
    """Which of the parameters of these names stay a client's own."""
    held = list(names)
    parts = (part for part in parts_of(defense) if isinstance(part, KeepsLocal))
    return frozenset[str]().union(*(part.local(held) for part in parts))


def _only(parts: Sequence[Part]) -> Part | None:
    return parts[0] if len(parts) == 1 else None


def mixing_of(defense: Defense | None) -> Mixes | None:
    """The one part that mixes examples; None where none does, or several."""
    return _only([part for part in parts_of(defense) if isinstance(part, Mixes)])


def transforming_of(defense: Defense | None) -> Transforms | None:
    """The one part that transforms examples; None where none does, or several."""
    return _only([part for part in parts_of(defense) if isinstance(part, Transforms)])


def erasing_of(defense: Defense | None) -> Erases | None:
    """The one part that overwrites parts of images; None where none does, or several."""
    return _only([part for part in parts_of(defense) if isinstance(part, Erases)])


def changes_examples(defense: Defense | None) -> bool:
    """Whether a defense says that the client trains on other examples than the private ones."""
    kinds = (Mixes, Transforms, Erases, Conceals)
    return any(isinstance(part, kinds) for part in parts_of(defense))


def concealing_of(defense: Defense | None) -> Conceals | None:
    """The one part that conceals examples; None where none does, or several."""
    return _only([part for part in parts_of(defense) if isinstance(part, Conceals)])
