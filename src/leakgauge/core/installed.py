"""Packages that came with LeakGauge: its requirements, and the requirements of those.

All installed extras count. A specification must not name functions of these packages as a user's
own parts. Some of them, such as joblib.load and sympy.sympify, execute their input.
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
"""Distributions whose requirements are followed. Most environments hold pip, setuptools and wheel."""


def is_ours_or_pythons(root: str) -> bool:
    """Return whether a top-level module belongs to Python or came with LeakGauge.

    A module of the same name in another folder belongs to the user. A requirement that is installed
    in editable mode from a folder of the user belongs to the user too.
    """
    if root in sys.stdlib_module_names:
        return True
    folders = required_modules().get(root, ())
    return any(_lies_in(root, folder) for folder in folders)


@cache
def required_modules() -> dict[str, tuple[Path, ...]]:
    """Return the top-level modules of all required distributions, each with the folders that hold it."""
    required = required_distributions()
    found: dict[str, tuple[Path, ...]] = {}
    for module, owners in importlib.metadata.packages_distributions().items():
        ours = sorted({owner for owner in owners if normalize(owner) in required})
        if ours:
            found[module] = tuple(_folder(owner) for owner in ours)
    return found


@cache
def required_distributions() -> frozenset[str]:
    """Return the normalized names of all installed distributions that ROOTS require, without LeakGauge itself."""
    found: set[str] = set()
    waiting = list(ROOTS)
    while waiting:
        name = normalize(waiting.pop())
        if name in found:
            continue
        try:
            lines = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # This extra is not installed.
        found.add(name)
        waiting += [re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in lines]
    return frozenset(found - {"leakgauge"})


def normalize(name: str) -> str:
    """Return a distribution's name in the form that package indexes compare (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _folder(distribution: str) -> Path:
    """Return the folder in which a distribution is installed."""
    return Path(str(importlib.metadata.distribution(distribution).locate_file(""))).resolve()


def _lies_in(root: str, folder: Path) -> bool:
    """Return whether the module lies in the folder, without importing it. True if it cannot be found at all."""
    loaded = sys.modules.get(root)
    spec = loaded.__spec__ if loaded is not None else importlib.util.find_spec(root)
    if spec is None:
        return True
    return any(Path(place).resolve().is_relative_to(folder) for place in _places(spec))


def _places(spec: importlib.machinery.ModuleSpec) -> list[str]:
    """Return the folders of a package, or the file of a module."""
    if spec.submodule_search_locations is not None:
        return list(spec.submodule_search_locations)
    return [spec.origin] if spec.origin else []
