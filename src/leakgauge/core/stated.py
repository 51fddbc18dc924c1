"""Readers of the effects that the parts of a defense state about themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from inspect import getattr_static
from typing import Protocol, TypeVar

from torch import Tensor

from leakgauge.core.defense import Combined, Defense, parts_of
from leakgauge.core.effects import BatchNoise, Effect, InUpdateUnits, Noise, Rounding, RoundMemory
from leakgauge.core.errors import SpecificationError
from leakgauge.core.kinds import describe_value
from leakgauge.core.seams import check_update
from leakgauge.core.seeds import Seeds
from leakgauge.core.update import Tensors, Update

E = TypeVar("E", bound=Effect)
ABSENT = object()


class Granted(Protocol):
    """Knowledge that may include the defense."""

    @property
    def defense(self) -> Defense | None:
        """The known defense, or None."""
        ...


class Informed(Protocol):
    """An object with granted knowledge, such as an observation."""

    @property
    def knowledge(self) -> Granted:
        """The granted knowledge."""
        ...


Source = Informed | Defense | None


def effect(source: Source, kind: type[E]) -> E | None:
    """Return the joint effect of one kind, or None if there is none or it is not known.

    Args:
        source: An observation (its known defense counts), a defense, or None.
        kind: The class of the effect, for example Noise. Its `together` joins the effects of
            several parts.

    Raises:
        SpecificationError: The defense's `effects` is not a tuple of effects.
    """
    return kind.together(effects_of(source, kind))


def effects_of(source: Source, kind: type[E]) -> tuple[E, ...]:
    """Return the effects of one kind of all parts, in the order in which the parts act.

    Args:
        source: An observation (its known defense counts), a defense, or None.
        kind: The class of the effects. Effect returns all.

    Raises:
        SpecificationError: The defense's `effects` is not a tuple of effects.
    """
    return tuple(each for each in stated_by(defense_in(source)) if isinstance(each, kind))


def defense_in(source: Source) -> Defense | None:
    """Return the known defense of an observation. Return a source that is a defense or None unchanged."""
    if source is None or isinstance(source, Defense):
        return source
    return source.knowledge.defense


def stated_by(defense: Defense | None) -> tuple[Effect, ...]:
    """Return all effects that a defense states.

    A combination without effects of its own has the effects of its parts.

    Raises:
        SpecificationError: `effects` is not a tuple of effects.
    """
    # `getattr` with a default would mistake a property that fails for a missing attribute.
    if getattr_static(defense, "effects", ABSENT) is ABSENT:
        stated: object = ()
    else:
        stated = getattr(defense, "effects")  # noqa: B009
    odd = (
        [each for each in stated if not isinstance(each, Effect)]
        if isinstance(stated, tuple)
        else []
    )
    if not isinstance(stated, tuple) or odd:
        raise SpecificationError(
            f"defense {type(defense).__name__}, effects",
            expected="a tuple of effects, such as (leakgauge.core.Noise(std=0.1),)",
            found=f"{describe_value(odd[0])} in the tuple" if odd else describe_value(stated),
            remedy="correct the attribute, or leave it out if the defense has no effects",
        )
    if not stated and isinstance(defense, Combined):
        return effects_in_order(defense.defenses)
    return stated


def effects_in_order(defenses: Sequence[Defense]) -> tuple[Effect, ...]:
    """Return the effects of defenses that act one after the other.

    Rounding counts only for the last one. RoundMemory is left out, since only the combination
    itself knows which part kept which tensors.
    """
    acting = [defense for defense in defenses if parts_of(defense)]
    kept: list[Effect] = []
    for i, defense in enumerate(acting):
        lost = (RoundMemory,) if i == len(acting) - 1 else (RoundMemory, Rounding)
        kept += [each for each in stated_by(defense) if not isinstance(each, lost)]
    return tuple(kept)


def mean_noise(source: Source, counts: Sequence[int | None]) -> Noise | None:
    """Return the noise on the mean of several clients' updates, or None if there is none.

    Args:
        source: An observation (its known defense counts), a defense, or None.
        counts: Number of examples of each client, which is the weight of its update. If one number
            is None, all clients weigh the same. A client whose number is None gets no noise that
            depends on the number of examples.
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


def drop_update_units(defense: Defense | None) -> Defense | None:
    """Return a defense without its parts with options in the update's units, or None if none is left.

    Use it for an update that was scaled. Options in the units of the unscaled update mean nothing
    there.
    """
    kept = [part for part in parts_of(defense) if effect(part, InUpdateUnits) is None]
    if isinstance(defense, Combined) and kept:
        return defense.of(tuple(kept))
    return kept[0] if kept else None


def defend_update(
    defense: Defense, update: Update, memory: Mapping[str, Tensor], *, seeds: Seeds
) -> tuple[Update, Tensors]:
    """Return the update that leaves a client in one round, and the tensors that its defense keeps.

    Args:
        defense: The defense of the client.
        update: The update of the local training.
        memory: The tensors that the defense kept after the round before. Empty in the first round.
        seeds: The source of the defense's random draws.

    Raises:
        SpecificationError: The defense did not return an update.
    """
    carried = effect(defense, RoundMemory)
    if carried is None:
        return check_update(defense, defense.on_update(update, seeds=seeds)), {}
    shared, kept = carried.remember(update, memory, seeds=seeds)
    return check_update(defense, shared), kept
