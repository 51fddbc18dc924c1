"""Packages that came with LeakGauge: its requirements, theirs in turn, with all extras that are installed.

None of their functions is a user's own part, and some of them run what they are given: joblib.load, sympy.sympify.
"""

from __future__ import annotations

import importlib.machinery
import importlib.metadata
import importlib.util
import re
import sys
from functools import cache
from pathlib import Path

ROOTS = ("leakgauge", "pip", "setuptools", "wheel")
"""Distributions whose requirements are followed. The last three stand in most environments."""


def is_ours_or_pythons(root: str) -> bool:
    """Return whether a top-level module belongs to Python, or to a package that came with LeakGauge.

    A module of the same name that lies elsewhere is the user's, and so is a requirement that is installed in
    editable mode from a folder of the user's.
    """
    if root in sys.stdlib_module_names:
        return True
    folders = required_modules().get(root, ())
    return any(_lies_in(root, folder) for folder in folders)


@cache
def required_modules() -> dict[str, tuple[Path, ...]]:
    """Return the top-level modules of all required distributions, each with the folders it is installed in."""
    required = required_distributions()
    found: dict[str, tuple[Path, ...]] = {}
    for module, owners in importlib.metadata.packages_distributions().items():
        ours = sorted({owner for owner in owners if normalized(owner) in required})
        if ours:
            found[module] = tuple(_folder(owner) for owner in ours)
    return found


@cache
def required_distributions() -> frozenset[str]:
    """Return the normalized names of all installed distributions that ROOTS require, but for LeakGauge itself."""
    found: set[str] = set()
    waiting = list(ROOTS)
    while waiting:
        name = normalized(waiting.pop())
        if name in found:
            continue
        try:
            lines = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # an extra that nobody installed
        found.add(name)
        waiting += [re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in lines]
    return frozenset(found - {"leakgauge"})


def normalized(name: str) -> str:
    """Return a distribution's name as package indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _folder(distribution: str) -> Path:
    return Path(str(importlib.metadata.distribution(distribution).locate_file(""))).resolve()


def _lies_in(root: str, folder: Path) -> bool:
    """Return whether the module is found in the folder, or cannot be found at all. It is not imported."""
    loaded = sys.modules.get(root)
    spec = loaded.__spec__ if loaded is not None else importlib.util.find_spec(root)
    if spec is None:
        return True
    return any(Path(place).resolve().is_relative_to(folder) for place in _places(spec))


def _places(spec: importlib.machinery.ModuleSpec) -> list[str]:
    if spec.submodule_search_locations is not None:
        return list(spec.submodule_search_locations)
    return [spec.origin] if spec.origin else []
