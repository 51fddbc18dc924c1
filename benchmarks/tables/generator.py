"""The whole of docs/benchmarks: one page for each file of results, their plots, and an index."""

from __future__ import annotations

import importlib

from tables.documents import ROOT, Document, load, names
from tables.index import index
from tables.page import Page, drawn, written

FOLDER = ROOT / "docs" / "benchmarks"


def page_of(document: Document) -> Page:
    """Return the words of a document's page."""
    page = importlib.import_module(f"tables.pages.{document.benchmark}").PAGE
    assert isinstance(page, Page), f"tables/pages/{document.benchmark}.py: PAGE is no Page"
    return page


def documents() -> list[tuple[Page, Document]]:
    """Return every file of results with its page."""
    return [(page_of(found), found) for found in map(load, names())]


def texts() -> dict[str, str]:
    """Return the text of each page by its file name."""
    every = documents()
    found = {f"{document.name}.md": written(page, document) for page, document in every}
    return found | {"index.md": index(every)}


def plots(only: set[str]) -> dict[str, str]:
    """Return the plot of each page by its file name, or of some pages by the names of their results."""
    from tables.plots import draw

    found = {}
    for page, document in documents():
        if page.plot is not None and (not only or document.name in only):
            found[f"{document.name}.svg"] = draw(page.plot, drawn(page, document))
    return found


def different() -> list[str]:
    """Return the names of pages that are not as the results say: missing, changed, or without results."""
    made = texts()
    there = {path.name: path.read_text("utf-8") for path in FOLDER.glob("*.md")}
    return sorted(name for name in made.keys() | there.keys() if made.get(name) != there.get(name))


def write(only: set[str]) -> None:
    """Write all pages, and the plots of some or all of them."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in (texts() | plots(only)).items():
        (FOLDER / name).write_text(text, "utf-8")
