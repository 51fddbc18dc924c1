"""The contract of defenses, and what else one may say of itself to an adversary who knows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from torch import Tensor, nn

from leakgauge.core.protocols import LocalTraining
from leakgauge.core.seeds import Seeds
from leakgauge.core.update import Tensors, Update

NoiseLaw = Literal["gaussian", "laplacian"]


@runtime_checkable
class Defense(Protocol):
    """What a client does against leakage, at four seams, and what an adversary who knows it does in turn."""

    def on_batch(self, inputs: Tensor, targets: Tensor, *, seeds: Seeds) -> tuple[Tensor, Tensor]:
        """Seam 1, the data: inputs (B, *shape) and targets (B,) or (B, K) as trained on."""
        ...

    def on_model(self, model: nn.Module, *, seeds: Seeds) -> nn.Module:
        """Seam 2, the model: the network that server and client both use."""
        ...

    def on_training(self, training: LocalTraining, *, seeds: Seeds) -> LocalTraining:
        """Seam 3, the gradient computation."""
        ...

    def on_update(self, update: Update, *, seeds: Seeds) -> Update:
        """Seam 4, the finished update."""
        ...

    def adapt(self, observed: Update) -> Callable[[Tensors], Tensors]:
        """What a knowing adversary applies to a simulated update before comparing it with `observed`."""
        ...


@dataclass(frozen=True)
class Claim:
    """What a defense hides, from whom, and what an adversary does who knows it: a line each, for a reader."""

    hides: str
    whom: str
    adversary: str


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
class TellsEpsilon(Defense, Protocol):
    """A defense with a bound by differential privacy."""

    def epsilon(self, *, steps: int, sample_rate: float, delta: float) -> float:
        """The epsilon of (epsilon, delta)-differential privacy; SpecificationError without what computes it."""
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
class Combined(Defense, Protocol):
    """Several defenses that act one after the other."""

    @property
    def defenses(self) -> tuple[Defense, ...]:
        """In their order."""
        ...

    def of(self, defenses: tuple[Defense, ...]) -> Defense:
        """The same combination of others."""
        ...


def parts_of(defense: Defense | None) -> tuple[Defense, ...]:
    """A defense's parts in their order: itself, where it is not several; none where there is none."""
    if defense is None:
        return ()
    if not isinstance(defense, Combined):
        return (defense,)
    return tuple(part for inner in defense.defenses for part in parts_of(inner))


def noise_of(defense: Defense | None, count: int | None = None) -> tuple[float, NoiseLaw] | None:
    """Standard deviation and law of the noise that a defense adds to each entry; None where it adds none.

    `count`: how many examples the update is of; what depends on it is left out where it is not known.
    Independent noises add their variances; the sum of several is taken for Gaussian.
    """
    parts = parts_of(defense)
    noises = [(part.std, part.law) for part in parts if isinstance(part, AddsNoise)]
    if count is not None:
        by_batch = (part for part in parts if isinstance(part, AddsNoiseByBatch))
        noises += [(part.std_of(count), part.law) for part in by_batch]
    noises = [(std, law) for std, law in noises if std > 0]
    if not noises:
        return None
    total = sum(std**2 for std, _ in noises) ** 0.5
    return total, noises[0][1] if len(noises) == 1 else "gaussian"


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


def mixing_of(defense: Defense | None) -> Mixes | None:
    """The one part that mixes examples; None where none does, or several."""
    found = [part for part in parts_of(defense) if isinstance(part, Mixes)]
    return found[0] if len(found) == 1 else None


def in_other_units(defense: Defense | None) -> Defense | None:
    """What still holds of a defense once the adversary has scaled the update: the parts without units of their own."""
    kept = [part for part in parts_of(defense) if not getattr(part, "absolute", False)]
    if isinstance(defense, Combined) and kept:
        return defense.of(tuple(kept))
    return kept[0] if kept else None
