"""What records call attacks and defenses, and what a defense claims."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from numbers import Real

from leakgauge import records
from leakgauge.audit.options import snake
from leakgauge.core import Attack, Combined, Defense, parts_of
from leakgauge.core.configuration import configuration_of
from leakgauge.records import Claim


def titles(parts: Iterable[object]) -> dict[int, str]:
    """Return what records and seeds call each part, by its id.

    A repr may hold an address in memory, which is another in the next run. Without it, parts that differ may have
    equal names: the second of them ends with "#2".
    """
    found: dict[int, str] = {}
    reprs: dict[str, dict[str, int]] = {}
    for part in parts:
        text, name = repr(part), configuration_of(part)
        alike = reprs.setdefault(name, {})
        number = alike.setdefault(text, len(alike) + 1)
        found[id(part)] = name if number == 1 else f"{name} #{number}"
    return found


def attack_name(attack: Attack) -> str:
    """The name that a specification gives an attack, and in brackets that of the one within it."""
    inner = getattr(attack, "attack", None)
    name = snake(type(attack).__name__)
    return f"{name} ({snake(type(inner).__name__)})" if inner is not None else name


def name_of(defense: Defense | None) -> str:
    """The name that a specification gives a defense; of a chain, those of its parts."""
    if isinstance(defense, Combined):
        return " + ".join(map(name_of, parts_of(defense))) or "none"
    return "none" if defense is None else snake(type(defense).__name__)


def strength_of(defense: Defense | None) -> tuple[str | None, float | str | None]:
    """Return what a figure puts on its axis, and its value; of a chain, those of its parts in one text.

    `strength` of a defense names one of its attributes. One that names none is the strength itself.
    """
    if isinstance(defense, Combined):
        each = [found for found in map(strength_of, parts_of(defense)) if found[0] is not None]
        texts = (f"{value:g}" if isinstance(value, float) else str(value) for _, value in each)
        return ", ".join(str(name) for name, _ in each) or None, ", ".join(texts) or None
    told = getattr(defense, "strength", None)
    if told is None:
        return None, None
    named = isinstance(told, str) and hasattr(defense, told)
    return (told, getattr(defense, told)) if named else ("strength", told)


def defense_record(defense: Defense | None, title: str) -> records.Defense:
    """Return a defense as a record holds it; of a chain, with the claim of each part. title: see `titles`."""
    name, value = strength_of(defense)
    number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else None
    claims = ((part, getattr(part, "claim", None)) for part in parts_of(defense))
    return records.Defense(
        name=name_of(defense),
        repr="none" if defense is None else title,
        strength_name=name,
        strength=number,
        strength_text=None if value is None else str(value),
        claims=tuple(
            Claim(defense=name_of(part), **asdict(claim)) for part, claim in claims if claim
        ),
    )
