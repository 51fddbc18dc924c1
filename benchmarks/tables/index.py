"""The index of all pages."""

from __future__ import annotations

from collections.abc import Sequence

from tables.documents import Document
from tables.headlines import headlines
from tables.page import Page, state_of, time_of

THEMES = (
    "What leaks",
    "Exact attacks",
    "Labels",
    "Federated protocols",
    "Defenses",
    "Cost and quality of the tool",
)
LEAD = """# Benchmarks

Every number in this documentation comes from a script under `benchmarks/`. The pages below are generated from the
results in `benchmarks/results`, so both hold the same numbers.

## Headline results

PSNR in dB, with the blind control and the number of images n. Compare each number with its
control: only the part above the control has leaked."""


def index(every: Sequence[tuple[Page, Document]]) -> str:
    """Return the index: headline results, then one table for each theme."""
    parts = [LEAD, headlines({document.name: document for _, document in every})]
    for theme in THEMES:
        lines = ["| benchmark | what it asks | state | time |", "| :-- | :-- | :-- | :-- |"]
        lines += [entry(page, document) for page, document in every if page.theme == theme]
        parts.append(f"## {theme}\n\n" + "\n".join(lines))
    parts.append(contents(every))
    return "\n\n".join(parts) + "\n"


def entry(page: Page, document: Document) -> str:
    """Return one line of the index."""
    state = "quick run" if document.quick else state_of(document)
    cells = [
        f"[{document.name}]({document.name}.md)",
        page.short,
        state,
        time_of(page, document).split(",")[0],
    ]
    return f"| {' | '.join(cells)} |"


def contents(every: Sequence[tuple[Page, Document]]) -> str:
    """Return the tree of pages, for the documentation's navigation."""
    ordered = [document.name for theme in THEMES for page, document in every if page.theme == theme]
    return "\n".join(["```{toctree}", ":hidden:", "", *ordered, "```"])
