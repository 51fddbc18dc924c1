"""The names that a specification may use, with one line about each."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from leakgauge import metrics
from leakgauge.audit.materials import DATA, MODELS
from leakgauge.audit.options import options_of
from leakgauge.audit.resolve import ATTACKS, DEFENSES, THREATS

NARROW = 40
"""Most characters of a default in a list."""


def first_line(part: Any) -> str:
    """Return the first line of a docstring."""
    return (inspect.getdoc(part) or "").partition("\n")[0]


def options(part: Callable[..., Any]) -> str:
    """Return the options of a part with their defaults, as in a specification."""
    shown = []
    for name, parameter in options_of(part).items():
        required = parameter.default is parameter.empty
        shown.append(name if required else f"{name} = {brief(parameter.default)}")
    return f" [{', '.join(shown)}]" if shown else ""


def brief(value: object) -> str:
    """Return a default in a few characters. Of a part, only the options that differ from its own defaults."""
    if isinstance(value, tuple) and any(is_dataclass(each) for each in value):
        return f"{len(value)} parts"
    if isinstance(value, type) or inspect.isroutine(value):
        # The repr of a function holds its address, which differs from build to build.
        return "a function" if value.__name__ == "<lambda>" else value.__name__
    if not is_dataclass(value):
        text = repr(value)
        plain = len(text) <= NARROW and " at 0x" not in text and "`" not in text
        return text if plain else type(value).__name__
    changed = []
    for field in fields(value):
        own = getattr(value, field.name)
        if field.repr and (field.default is MISSING or own != field.default):
            changed.append(f"{field.name}={own!r}")
    text = f"{type(value).__name__}({', '.join(changed)})"
    return text if len(text) <= NARROW else f"{type(value).__name__}(...)"


def attack_lines() -> list[str]:
    """Return one line for each attack, with the knowledge that it needs."""
    rows = []
    for name, attack in sorted(ATTACKS.items()):
        needs = ", ".join(sorted(attack().requires)) or "nothing"
        rows.append(
            f"{name}: {first_line(attack)} Needs: model, protocol, update, {needs}.{options(attack)}"
        )
    return rows


def part_lines(parts: dict[str, Any]) -> list[str]:
    """Return one line for each part."""
    return [f"{name}: {first_line(part)}{options(part)}" for name, part in sorted(parts.items())]


def threat_lines() -> list[str]:
    """Return one line for each threat model, with the knowledge that it grants."""
    rows = []
    for name, threat in sorted(THREATS.items()):
        grants = ", ".join(sorted(threat().grants)) or "nothing"
        rows.append(
            f"{name}: {first_line(threat)} Grants: model, protocol, update, {grants}.{options(threat)}"
        )
    return rows


def metric_lines() -> list[str]:
    """Return one line for each metric. It says whether a higher or a lower value is closer."""
    made = {
        "iip_pixels": metrics.identified,
        "iip_squeeze": metrics.identified,
        "lpips_squeeze": metrics.LpipsSqueeze,
        "rouge1": metrics.rouge,
        "rouge2": metrics.rouge,
        "rouge_l": metrics.rouge,
    }
    # Metrics that share a function need more than its first line.
    compared = {
        "iip_pixels": " Distances are squared errors of pixels.",
        "iip_squeeze": " Distances are angles of SqueezeNet's features.",
        "rouge1": " It counts words.",
        "rouge2": " It counts pairs of neighboring words.",
        "rouge_l": " It counts the longest common subsequence of words.",
    }
    found = {name: made.get(name) or getattr(metrics, name) for name in metrics.CLOSER}
    return [
        f"{name}: {first_line(part)}{compared.get(name, '')} {metrics.CLOSER[name].capitalize()} is closer."
        for name, part in sorted(found.items())
    ]


CATALOG: dict[str, Callable[[], list[str]]] = {
    "attacks": attack_lines,
    "defenses": lambda: ["none: Share the update unchanged.", *part_lines(DEFENSES)],
    "models": lambda: part_lines(MODELS),
    "data": lambda: part_lines(DATA),
    "metrics": metric_lines,
    "threats": threat_lines,
}


def lines(what: str) -> list[str]:
    """Return the lines of `leakgauge list WHAT`."""
    return CATALOG[what]()
