"""Names of attacks and defenses in records, and the record of a defense with its claims."""

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
    """Return the name of each part in records and seeds, by the part's id.

    A repr may hold an address in memory, which changes from run to run. The names leave it out. Different parts may
    then have the same name, so the second one's ends with "#2".
    """
    found: dict[int, str] = {}
    reprs: dict[str, dict[str, int]] = {}
    for part in parts:
        text, name = repr(part), configuration_of(part)
        numbers = reprs.setdefault(name, {})
        number = numbers.setdefault(text, len(numbers) + 1)
        found[id(part)] = name if number == 1 else f"{name} #{number}"
    return found


def attack_name(attack: Attack) -> str:
    """Return the name of an attack in a specification. The name of an attack that it runs follows in brackets."""
    inner = getattr(attack, "attack", None)
    name = snake(type(attack).__name__)
    return f"{name} ({snake(type(inner).__name__)})" if inner is not None else name


def name_of(defense: Defense | None) -> str:
    """Return the name of a defense in a specification. For a chain, join the names of its parts with " + "."""
    if isinstance(defense, Combined):
        return " + ".join(map(name_of, parts_of(defense))) or "none"
    return "none" if defense is None else snake(type(defense).__name__)


def strength_of(defense: Defense | None) -> tuple[str | None, float | str | None]:
    """Return the name and the value of a defense's strength, for the axis of a figure.

    For a chain, the names of its parts stand in one text, and their values in another. The attribute `strength` of a
    defense is the name of another attribute. If no attribute has this name, `strength` is the value itself.

    Returns:
        Name and value. Both are None if the defense states no strength.
    """
    if isinstance(defense, Combined):
        each = [found for found in map(strength_of, parts_of(defense)) if found[0] is not None]
        texts = (f"{value:g}" if isinstance(value, float) else str(value) for _, value in each)
        return ", ".join(str(name) for name, _ in each) or None, ", ".join(texts) or None
    strength = getattr(defense, "strength", None)
    if strength is None:
        return None, None
    named = isinstance(strength, str) and hasattr(defense, strength)
    return (strength, getattr(defense, strength)) if named else ("strength", strength)


def defense_record(defense: Defense | None, title: str) -> records.Defense:
    """Return the record of a defense. The record of a chain has the claim of each part.

    Args:
        defense: The defense, or None if the client has none.
        title: Name of the defense from `titles`.
    """
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
