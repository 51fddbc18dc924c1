"""The checks of pages and links find what is broken in them."""

from __future__ import annotations

from pathlib import Path

import links  # type: ignore[import-not-found]
import pages  # type: ignore[import-not-found]
import pytest

PRINTS = "```python\nprint(12)\n```\n"
BROKEN = {
    "hangs": ("```python\nwhile True: pass\n```\n", "still ran"),
    "prints nothing": ("```python\nx = 1\n```\n```text\n1\n```\n", "expected:\n1"),
    "fails": ("```python\n1 / 0\n```\n", "ZeroDivisionError"),
    "other number": (f"{PRINTS}```text\n99\n```\n", "printed:\n12"),
    "ends early": ("```python\nraise SystemExit(0)\n```\n```text\n1\n```\n", "ended early"),
    "specification": ("```toml\nx = [\n```\n", "Error"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_page_is_found(name: str, tmp_path: Path) -> None:
    text, said = BROKEN[name]
    page = tmp_path / "a.md"
    page.write_text(text, "utf-8")
    assert said in pages.run(page, longest=2)


def test_a_good_page_passes(tmp_path: Path) -> None:
    page = tmp_path / "a.md"
    page.write_text(f"{PRINTS}```text\n12\n```\n", "utf-8")
    assert pages.run(page) == ""


def test_broken_links_of_a_site_are_found(tmp_path: Path) -> None:
    (tmp_path / "a b.html").write_text('<p id="x">', "utf-8")
    (tmp_path / "a.html").write_text(
        '<a href="a%20b.html#x"><a href="a%20b.html#y"><a href="#z"><img src="c.png"><a href="#">',
        "utf-8",
    )
    assert list(links.broken_in_site(tmp_path)) == [
        "a.html: a%20b.html#y: no such anchor",
        "a.html: #z: no such anchor",
        "a.html: c.png: no such file",
    ]


def test_a_site_without_pages_is_refused(tmp_path: Path) -> None:
    assert "no page" in next(links.broken_in_site(tmp_path))
