"""What records call attacks and defenses, and what a defense claims."""

from __future__ import annotations

from dataclasses import asdict

from leakgauge import records
from leakgauge.audit.options import snake
from leakgauge.core import Attack, Combined, Defense, parts_of
from leakgauge.defenses import Undefended
from leakgauge.records import Claim


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
    """What a figure puts on its axis, and its value; of a chain, those of its parts in one text."""
    if isinstance(defense, Combined):
        each = [found for found in map(strength_of, parts_of(defense)) if found[0] is not None]
        texts = (f"{value:g}" if isinstance(value, float) else str(value) for _, value in each)
        return ", ".join(str(name) for name, _ in each) or None, ", ".join(texts) or None
    name = getattr(defense, "strength", None) if isinstance(defense, Undefended) else None
    return name, getattr(defense, name) if name else None


def defense_record(defense: Defense | None) -> records.Defense:
    """Return a defense as a record holds it; of a chain, with the claim of each part."""
    name, value = strength_of(defense)
    number = None if isinstance(value, str | bool) else value
    claims = ((part, getattr(part, "claim", None)) for part in parts_of(defense))
    return records.Defense(
        name=name_of(defense),
        repr="none" if defense is None else repr(defense),
        strength_name=name,
        strength=number,
        strength_text=None if value is None else str(value),
        claims=tuple(
            Claim(defense=name_of(part), **asdict(claim)) for part, claim in claims if claim
        ),
    )
