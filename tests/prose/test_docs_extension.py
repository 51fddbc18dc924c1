"""The extensions of the documentation site meet odd classes and equations with one clear warning."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import pytest
from annotated_types import Ge
from docutils import nodes

pytest.importorskip("sphinx", reason="the documentation site is an extra")
pytest.importorskip("latex2mathml", reason="the documentation site is an extra")

EXTENSIONS = Path(__file__).resolve().parents[2] / "docs" / "_ext"
NAMES = ("mathml", "options", "parts")


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """Yield the extensions as `docs/conf.py` imports them."""
    monkeypatch.syspath_prepend(str(EXTENSIONS))
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in NAMES})
    for name in NAMES:
        sys.modules.pop(name, None)


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch, site: SimpleNamespace) -> list[str]:
    """Return the warnings of the extensions, which grow as they warn."""
    lines: list[str] = []

    def keep(record: logging.LogRecord) -> bool:
        lines.append(record.getMessage())
        return False

    for module in (site.mathml, site.parts):
        monkeypatch.setattr(module.LOG.logger, "filters", [keep])
    return lines


@dataclass
class Silent:
    steps: int = 1


class Unreadable:
    """A class with an annotation that names nothing."""

    def __init__(self, steps: Nothing = 1) -> None:  # type: ignore[name-defined]  # noqa: F821
        self.steps = steps


class Odd:
    """A class with odd options."""

    def __init__(
        self,
        rule: Any = lambda value: value,
        text: str = "word | " * 100,
        thing: object = object(),
        nothing: tuple[()] = (),
        length: Annotated[float, "meters"] = 1.0,
        count: Annotated[int, Ge(1)] = 1,
    ) -> None: ...


def facts(part: type) -> str:
    """Return no facts."""
    return ""


@pytest.mark.parametrize(
    "part", [Silent, type("Bare", (Odd,), {"__module__": "leakgauge.attacks"})]
)
def test_a_class_without_a_docstring(
    site: SimpleNamespace, warned: list[str], part: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The warning names the page and the class. A docstring that is inherited or made does not count."""
    monkeypatch.setattr(part, "__module__", "leakgauge.attacks.bare")
    assert "## Options" in site.parts.page_or_warning("bare", part, facts)
    assert warned == [f"page bare, class {part.__name__}: expected a docstring, found none"]


def test_an_annotation_that_names_nothing(site: SimpleNamespace, warned: list[str]) -> None:
    """The page keeps its title, and the warning is one line."""
    assert site.parts.page_or_warning("odd", Unreadable, facts) == "# Unreadable\n"
    (line,) = warned
    assert line.startswith("page odd, class Unreadable: cannot be described: ")
    assert "\n" not in line


def test_a_class_that_needs_an_option(site: SimpleNamespace, warned: list[str]) -> None:
    """An attack whose knowledge cannot be read without options is named."""

    class Needy:
        """An attack with a required option."""

        def __init__(self, steps: int) -> None: ...

    site.parts.page_or_warning("needy", Needy, site.parts.knowledge_of)
    assert warned[0].startswith("page needy, class Needy: cannot be described: TypeError: ")


def test_odd_options(site: SimpleNamespace) -> None:
    """Each option has one row of four cells, without addresses and long texts."""
    assert list(site.options.rows_of(Odd)) == [
        "| `rule` | `Any` |  | `a function` |",
        "| `text` | text |  | `str` |",
        "| `thing` | `object` |  | `object` |",
        "| `nothing` | `tuple` |  | `()` |",
        "| `length` | number |  | `1.0` |",
        "| `count` | whole number | [1, ∞) | `1` |",
    ]


@pytest.mark.parametrize("equation", [r"\left( <a", "a^b^c", r"\frac", r"<a \unknown{x}"])
@pytest.mark.parametrize("kind", ["inline", "display"])
def test_an_equation_that_cannot_be_drawn(
    site: SimpleNamespace, warned: list[str], equation: str, kind: str
) -> None:
    """The warning names the equation, and the page shows its text."""
    writer = SimpleNamespace(body=[], starttag=lambda *_, **__: "<div>")
    node = nodes.math(equation, equation)
    with pytest.raises(nodes.SkipNode):
        getattr(site.mathml, kind)(writer, node)
    (line,) = warned
    assert line.startswith("equation cannot be drawn: ")
    assert line.endswith(f": {equation}")
    assert f"<code>{equation.replace('<', '&lt;')}</code>" in "".join(writer.body)


def test_an_equation_that_can_be_drawn(site: SimpleNamespace, warned: list[str]) -> None:
    """It is MathML, without a warning."""
    assert "<mfrac>" in site.mathml.mathml_of(r"\frac{\lambda}{2} \, \mathrm{TV}(x)", nodes.math())
    assert not warned
