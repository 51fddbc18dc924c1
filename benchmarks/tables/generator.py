"""The whole of docs/benchmarks: one page for each file of results, their plots, and an index."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from tables.documents import RESULTS, ROOT, Damaged, Document, load, names
from tables.headlines import HEADLINES, headlines
from tables.index import index
from tables.page import Page, drawn, written

FOLDER = ROOT / "docs" / "benchmarks"
T = TypeVar("T")
MISFITS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    StopIteration,
    TypeError,
    ValueError,
)
"""Errors of tables whose rows lack a field or hold another type in it."""


def page_of(document: Document) -> Page:
    """Return the words of a document's page."""
    page = importlib.import_module(f"tables.pages.{document.benchmark}").PAGE
    if not isinstance(page, Page):
        raise TypeError(f"tables/pages/{document.benchmark}.py: PAGE must be a Page")
    return page


def documents(results: Path = RESULTS) -> list[tuple[Page, Document]]:
    """Return every file of results with its page."""
    return [(page_of(found), found) for found in (load(name, results) for name in names(results))]


def fitting(path: Path, make: Callable[[], T]) -> T:
    """Return what is made of results. Raise Damaged if their rows do not fit."""
    try:
        return make()
    except Damaged:
        raise
    except MISFITS as error:
        said = f"{type(error).__name__}: {error}"
        raise Damaged(path, "rows with the fields that its page reads", said) from error


def texts(every: Sequence[tuple[Page, Document]], results: Path) -> dict[str, str]:
    """Return the text of each page by its file name."""
    found = {}
    for page, document in every:
        make = partial(written, page, document)
        found[f"{document.name}.md"] = fitting(results / f"{document.name}.json", make)
    return found | {"index.md": fitting(results, partial(index, every))}


def lead(results: Path = RESULTS) -> str:
    """Return the headline results as the README holds them."""
    read = {name: load(name, results) for name in HEADLINES}
    return fitting(results, partial(headlines, read, "docs/benchmarks/"))


def plots(every: Sequence[tuple[Page, Document]], only: set[str], results: Path) -> dict[str, str]:
    """Return the plot of each page by its file name, or of some pages by the names of their results."""
    from tables.plots import draw

    found = {}
    for page, document in every:
        if page.plot is not None and (not only or document.name in only):
            path = results / f"{document.name}.json"
            tables = fitting(path, partial(drawn, page, document))
            found[f"{document.name}.svg"] = fitting(path, partial(draw, page.plot, tables))
    return found


def different(results: Path = RESULTS, folder: Path = FOLDER) -> list[str]:
    """Return the names of pages that are not as the results say: missing, changed, or without results."""
    # Bytes, since reading as text would hide other ends of lines.
    made = {name: text.encode() for name, text in texts(documents(results), results).items()}
    there = {path.name: path.read_bytes() for path in folder.glob("*.md")}
    return sorted(name for name in made.keys() | there.keys() if made.get(name) != there.get(name))


def write(only: set[str], results: Path = RESULTS, folder: Path = FOLDER) -> None:
    """Write all pages, and the plots of some or all of them. All are made before the first is written."""
    every = documents(results)
    made = texts(every, results) | plots(every, only, results)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in made.items():
        # A page is replaced in one step, so that a full disk leaves no half of one.
        part = folder / f".{name}.part"
        try:
            part.write_bytes(text.encode())
            os.replace(part, folder / name)
        finally:
            part.unlink(missing_ok=True)
