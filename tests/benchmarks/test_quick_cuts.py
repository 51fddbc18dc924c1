"""The quick cut of each benchmark contains the method of its headline. No attack runs."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import pytest

ROOT = Path(__file__).resolve().parents[2]
# At the end: `zoo` is also the name of a package of the tests.
sys.path.append(str(ROOT / "benchmarks"))

from common import Options  # type: ignore[import-not-found]  # noqa: E402
from tables.quick import HEADLINES  # type: ignore[import-not-found]  # noqa: E402

PAGES = sorted(
    path.stem
    for path in (ROOT / "benchmarks" / "tables" / "pages").glob("*.py")
    if path.stem != "__init__"
)


SLOW = ("cocktail_party", "time_to_quality_relu")
"""Benchmarks whose whole run chooses images by their gradients, which takes seconds."""


def script_of(name: str) -> ModuleType:
    """Return the script of a benchmark, loaded from its file."""
    own = f"benchmark_{name}"
    if own not in sys.modules:
        spec = importlib.util.spec_from_file_location(own, ROOT / "benchmarks" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[own] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[own])
    return sys.modules[own]


def jobs_of(name: str, *, quick: bool) -> list[Any]:
    """Return the jobs of a benchmark, without measuring the arithmetic of this processor."""
    script = script_of(name)
    given = Options(quick=quick, data=None, seed=0, out=Path(), workers=1)
    with mock.patch.object(script, "answered", return_value="", create=True):
        return list(script.jobs_of(given))


def test_each_page_names_its_headline() -> None:
    """Every benchmark with a page says which jobs its headline needs."""
    assert sorted(HEADLINES) == PAGES


@pytest.mark.parametrize("name", PAGES)
def test_docstring_names_the_rows_of_the_quick_cut(name: str) -> None:
    """The docstring of each script has one paragraph that begins with "Quick:"."""
    words = script_of(name).__doc__ or ""
    assert sum(line.startswith("Quick: ") for line in words.splitlines()) == 1


@pytest.mark.parametrize("name", PAGES)
def test_quick_cut_contains_the_headline(name: str) -> None:
    """For each part of the headline, a quick run has a job."""
    jobs = jobs_of(name, quick=True)
    for i, predicate in enumerate(HEADLINES[name]):
        assert any(predicate(job) for job in jobs), (
            f"expected a quick job for part {i} of the headline of {name}, found none in {jobs}"
        )


@pytest.mark.parametrize("name", [name for name in PAGES if name not in SLOW])
def test_full_run_contains_the_headline(name: str) -> None:
    """The whole run has these jobs too."""
    jobs = jobs_of(name, quick=False)
    assert all(any(predicate(job) for job in jobs) for predicate in HEADLINES[name])
