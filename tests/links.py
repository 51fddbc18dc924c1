"""Check every link of the built site, and of the pages in the repository. Other addresses are not asked.

python tests/links.py FOLDER_OF_THE_SITE
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
ELSEWHERE = ("http", "https", "mailto", "data")


class Page(HTMLParser):
    """The links and anchors of one page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links, self.anchors = list[str](), {"", "top"}
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Collect what a tag links to, and the name under which it is found."""
        for name, value in attributes:
            if name in ("href", "src") and value:
                self.links.append(value)
            elif name in ("id", "name") and value:
                self.anchors.add(value)


@cache
def page_at(path: Path) -> Page:
    """Return a page of the site."""
    return Page(path.read_text("utf-8"))


def broken_in_site(site: Path) -> Iterator[str]:
    """Yield each link of the site whose file or anchor does not exist."""
    pages = sorted(site.rglob("*.html"))
    if not pages:
        yield f"{site}: expected a built site, found no page. Build the documentation first"
    for path in pages:
        for link in page_at(path).links:
            parts = urlsplit(link)
            if parts.scheme in ELSEWHERE or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists():
                yield f"{path.relative_to(site)}: {link}: no such file"
            elif (
                target.suffix == ".html" and unquote(parts.fragment) not in page_at(target).anchors
            ):
                yield f"{path.relative_to(site)}: {link}: no such anchor"


def broken_in_repository() -> Iterator[str]:
    """Yield each link of a Markdown page outside the site whose file does not exist."""
    for path in (*ROOT.glob("*.md"), *ROOT.glob("benchmarks/*.md"), *ROOT.glob("examples/*.md")):
        for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text("utf-8")):
            parts = urlsplit(link)
            if (
                parts.scheme not in ELSEWHERE
                and parts.path
                and not (path.parent / unquote(parts.path)).exists()
            ):
                yield f"{path.relative_to(ROOT)}: {link}: no such file"


def main(site: str) -> int:
    """Print each broken link."""
    broken = [*broken_in_site(Path(site).resolve()), *broken_in_repository()]
    print("\n".join([*broken, f"{len(broken)} broken links"]))
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
