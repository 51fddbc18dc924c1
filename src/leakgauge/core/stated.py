"""Read what the parts of a defense state of themselves: one effect, all of one kind, or noise on a mean of clients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from inspect import getattr_static
from typing import Protocol, TypeVar

from torch import Tensor

from leakgauge.core.defense import Combined, Defense, parts_of
from leakgauge.core.effects import BatchNoise, Effect, InUpdateUnits, Noise, Rounding, RoundMemory
from leakgauge.core.errors import SpecificationError
from leakgauge.core.kinds import found
from leakgauge.core.seams import checked_update
from leakgauge.core.seeds import Seeds
from leakgauge.core.update import Tensors, Update

E = TypeVar("E", bound=Effect)
ABSENT = object()


class Granted(Protocol):
    """Knowledge that may hold a defense."""

    @property
    def defense(self) -> Defense | None: ...


class Informed(Protocol):
    """An observation, as far as its defense goes."""

    @property
    def knowledge(self) -> Granted: ...


Source = Informed | Defense | None


def effect(source: Source, kind: type[E]) -> E | None:
    """Return the joint effect of one kind, or None if there is none or it cannot be told.

    Args:
        source: an observation, whose known defense is meant; a defense; or None.
        kind: for example Noise. Its `together` says how the effects of several parts join.

    Raises:
        SpecificationError: the defense's `effects` is no tuple of effects.
    """
    return kind.together(effects_of(source, kind))


def effects_of(source: Source, kind: type[E]) -> tuple[E, ...]:
    """Return the effects of one kind of all parts, in the order in which the parts act.

    Args:
        source: an observation, whose known defense is meant; a defense; or None.
        kind: of which effects; Effect for all.

    Raises:
        SpecificationError: the defense's `effects` is no tuple of effects.
    """
    return tuple(each for each in stated_by(defense_in(source)) if isinstance(each, kind))


def defense_in(source: Source) -> Defense | None:
    """Return the defense that an observation's knowledge holds, or the source itself."""
    if source is None or isinstance(source, Defense):
        return source
    return source.knowledge.defense


def stated_by(defense: Defense | None) -> tuple[Effect, ...]:
    """Return all that a defense states. A combination that states nothing has the effects of its parts.

    Raises:
        SpecificationError: `effects` is no tuple of effects.
    """
    # `getattr` with a default would take a property that fails for one that is left out.
    if getattr_static(defense, "effects", ABSENT) is ABSENT:
        told: object = ()
    else:
        told = getattr(defense, "effects")  # noqa: B009
    odd = [each for each in told if not isinstance(each, Effect)] if isinstance(told, tuple) else []
    if not isinstance(told, tuple) or odd:
        raise SpecificationError(
            f"defense {type(defense).__name__}, effects",
            expected="a tuple of effects, such as (leakgauge.core.Noise(std=0.1),)",
            found=f"{found(odd[0])} in the tuple" if odd else found(told),
            remedy="correct it, or leave it out if the defense has none",
        )
    if not told and isinstance(defense, Combined):
        return effects_in_order(defense.defenses)
    return told


def effects_in_order(defenses: Sequence[Defense]) -> tuple[Effect, ...]:
    """Return the effects of defenses that act one after the other.

    Rounding counts only at the end. RoundMemory is left out: only the combination itself knows which part kept what.
    """
    acting = [defense for defense in defenses if parts_of(defense)]
    told: list[Effect] = []
    for i, defense in enumerate(acting):
        lost = (RoundMemory,) if i == len(acting) - 1 else (RoundMemory, Rounding)
        told += [each for each in stated_by(defense) if not isinstance(each, lost)]
    return tuple(told)


def mean_noise(source: Source, counts: Sequence[int | None]) -> Noise | None:
    """Return the noise on the mean of several clients' updates, or None if there is none.

    Args:
        source: an observation, whose known defense is meant; a defense; or None.
        counts: how many examples each client has, by which its update weighs. If one is None, all weigh alike, and
            noise that depends on the number is left out for that client.
    """
    plain, by_batch = effects_of(source, Noise), effects_of(source, BatchNoise)
    known = [count for count in counts if count is not None]
    noises: list[Noise] = []
    for count in counts:
        weight = 1 / len(counts)
        if count is not None and len(known) == len(counts):
            weight = count / sum(known)
        own = plain
        if count is not None:
            own += tuple(noise.on_mean(count) for noise in by_batch)
        noises += [replace(noise, std=weight * noise.std) for noise in own]
    return Noise.together(noises)


def in_other_units(defense: Defense | None) -> Defense | None:
    """Return what holds of a defense after the update was scaled: the parts without options in the update's units."""
    kept = [part for part in parts_of(defense) if effect(part, InUpdateUnits) is None]
    if isinstance(defense, Combined) and kept:
        return defense.of(tuple(kept))
    return kept[0] if kept else None


def defended_update(
    defense: Defense, update: Update, memory: Mapping[str, Tensor], *, seeds: Seeds
) -> tuple[Update, Tensors]:
    """Return the update that leaves a client in one round, and what its defense keeps for the next round."""
    carried = effect(defense, RoundMemory)
    if carried is None:
        return checked_update(defense, defense.on_update(update, seeds=seeds)), {}
    shared, kept = carried.remember(update, memory, seeds=seeds)
    return checked_update(defense, shared), kept
