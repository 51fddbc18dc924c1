"""What records call attacks and defenses, and what a defense claims."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from leakgauge.audit.options import snake
from leakgauge.core import Attack, Combined, Defense, parts_of
from leakgauge.defenses import Undefended


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


def claim_of(defense: Defense | None) -> dict[str, str] | None:
    """What a defense hides, from whom, and who sees through; None of one that claims nothing."""
    claim = getattr(defense, "claim", None)
    return None if claim is None else asdict(claim)


def defense_record(defense: Defense | None) -> dict[str, Any]:
    """A defense as records hold it; of a chain, each part and its claim too."""
    strength, value = strength_of(defense)
    record: dict[str, Any] = {
        "name": name_of(defense),
        "repr": "none" if defense is None else repr(defense),
        "strength_name": strength,
        "strength": value,
        "claim": claim_of(defense),
    }
    if isinstance(defense, Combined):
        record["parts"] = [
            {"name": name_of(part), "claim": claim_of(part)} for part in parts_of(defense)
        ]
    return record
