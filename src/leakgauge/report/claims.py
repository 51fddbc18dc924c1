"""What defenses claim, as records hold it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from leakgauge.report.lenient import mapping, sequence, text


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What a defense, or a part of one, hides, from whom, and what an adversary does who knows it."""

    defense: str
    hides: str
    whom: str
    adversary: str


def claims_of(defense: Mapping[str, Any]) -> tuple[Claim, ...]:
    """What a record's defense claims: those of the parts, where it has several; none where nothing is claimed."""
    parts = [mapping(part) for part in sequence(defense.get("parts"))] or [defense]
    told = ((text(part.get("name")), mapping(part.get("claim"))) for part in parts)
    return tuple(
        Claim(
            defense=name,
            hides=text(claim.get("hides")),
            whom=text(claim.get("whom")),
            adversary=text(claim.get("adversary")),
        )
        for name, claim in told
        if claim
    )
