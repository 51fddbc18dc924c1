"""Each public class and function documents its arguments, and shows one example that runs."""

from __future__ import annotations

import enum
import importlib
import inspect
import re
import typing
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

ROOMS = (
    "leakgauge",
    "leakgauge.attacks",
    "leakgauge.data",
    "leakgauge.defenses",
    "leakgauge.examples",
    "leakgauge.inspection",
    "leakgauge.inversion",
    "leakgauge.metrics",
    "leakgauge.modalities",
    "leakgauge.models",
    "leakgauge.records",
    "leakgauge.threats",
    "leakgauge.utility",
)
REFERENCED = ("leakgauge.attacks", "leakgauge.defenses")
"""Rooms whose classes name the paper that each comes from."""


def is_documented(part: object) -> bool:
    """Return whether a user calls the part: a class or function, but no error, protocol, enumeration or record."""
    if inspect.isfunction(part):
        return True
    if not inspect.isclass(part) or getattr(part, "_is_protocol", False):
        return False
    return not issubclass(part, BaseException | enum.Enum | BaseModel)


def public() -> dict[str, Any]:
    """Return what users call, by the name under which they find it first."""
    found: dict[int, tuple[str, Any]] = {}
    for room in ROOMS:
        module = importlib.import_module(room)
        for name in getattr(module, "__all__", [n for n in vars(module) if n.islower()]):
            part = getattr(module, name)
            ours = getattr(part, "__module__", "").startswith("leakgauge")
            if ours and is_documented(part):
                found.setdefault(id(part), (f"{room}.{name}", part))
    return dict(found.values())


PUBLIC = public()


def arguments(part: Callable[..., Any]) -> list[str]:
    """Return the names of what a caller passes."""
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    parameters = inspect.signature(part).parameters.values()
    return [each.name for each in parameters if each.kind not in kinds]


@pytest.mark.parametrize("name", PUBLIC)
def test_an_example_runs(name: str) -> None:
    text = inspect.getdoc(PUBLIC[name]) or ""
    assert re.search(r"^ +>>> ", text.partition("\nExample:\n")[2], re.M), (
        "add a section `Example:`"
    )


@pytest.mark.parametrize("name", PUBLIC)
def test_each_argument_is_described(name: str) -> None:
    part = PUBLIC[name]
    section = (inspect.getdoc(part) or "").partition("\nArgs:\n")[2].partition("\n\n")[0]
    described = re.findall(r"^ +\*{0,2}(\w+)(?: \([^)]*\))?: ", section, re.M)
    assert [each for each in arguments(part) if each not in described] == []


@pytest.mark.parametrize("name", [name for name in PUBLIC if name.startswith(REFERENCED)])
def test_its_paper_is_named(name: str) -> None:
    text = inspect.getdoc(PUBLIC[name]) or ""
    assert "\nReferences:\n" in text, (
        "add a section `References:`, or say there that the method is ours"
    )


def test_summaries_are_one_line() -> None:
    for name, part in PUBLIC.items():
        first, _, rest = (inspect.getdoc(part) or "").partition("\n")
        assert first.endswith("."), name
        assert not rest.split("\n")[0].strip(), name


def test_typing_only_names_are_left_out() -> None:
    assert not any(typing.get_origin(part) for part in PUBLIC.values())
