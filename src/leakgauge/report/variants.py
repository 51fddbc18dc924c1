"""Distinct names for the attacks of a case if one attack runs with several options."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Mapping, Sequence

from leakgauge.records import Cell

LONGEST = 40
"""Most characters of an option's value in a name."""
READABLE = 4000
"""Most characters of a configuration that is parsed. Records may come from a stranger."""


def distinguish(cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells with attack names that are distinct in each case.

    If several attacks share a name, the options that differ are added to it. Other names stay unchanged.
    """
    reprs: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    for cell in cells:
        reprs[cell.case, cell.attack.name][cell.attack.repr] = None
    names = {key: _suffixes(list(found)) for key, found in reprs.items() if len(found) > 1}
    return [_named(cell, names.get((cell.case, cell.attack.name), {})) for cell in cells]


def _named(cell: Cell, suffixes: Mapping[str, str]) -> Cell:
    """Return the cell with the suffix of its configuration, if there is one, added to its attack's name."""
    suffix = suffixes.get(cell.attack.repr, "")
    if not suffix:
        return cell
    attack = cell.attack.model_copy(update={"name": f"{cell.attack.name}, {suffix}"})
    return cell.model_copy(update={"attack": attack})


def _suffixes(reprs: Sequence[str]) -> dict[str, str]:
    """Return the options that differ for each configuration, or its number if the options are not distinct."""
    options = [_options(text) for text in reprs]
    names = dict.fromkeys(name for each in options for name in each)
    differing = [name for name in names if len({each.get(name) for each in options}) > 1]
    suffixes = [
        ", ".join(f"{name} = {each[name]}" for name in differing if name in each)
        for each in options
    ]
    if len(set(suffixes)) < len(suffixes):
        suffixes = [f"number {i}" for i in range(1, len(reprs) + 1)]
    return dict(zip(reprs, suffixes, strict=True))


def _options(text: str) -> dict[str, str]:
    """Return the values of a configuration's options by name. It is empty unless the text is a call with keywords."""
    found: dict[str, str] = {}
    if len(text) > READABLE:
        return found
    try:
        call = ast.parse(text, mode="eval").body
        if isinstance(call, ast.Call):
            _collect(call, "", found)
    # A text with thousands of nested brackets or signs raises RecursionError or MemoryError.
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    return found


def _collect(call: ast.Call, path: str, found: dict[str, str]) -> None:
    """Add the options of a call to `found`. Options of an inner call get names like `attack.steps`."""
    for option in call.keywords:
        name = f"{path}{option.arg}"
        if isinstance(option.value, ast.Call) and option.value.keywords:
            _collect(option.value, f"{name}.", found)
        else:
            found[name] = _short(ast.unparse(option.value))


def _short(text: str) -> str:
    """Return the text, without its middle if it is longer than LONGEST characters."""
    half = (LONGEST - 5) // 2
    return text if len(text) <= LONGEST else f"{text[:half]} ... {text[-half:]}"
