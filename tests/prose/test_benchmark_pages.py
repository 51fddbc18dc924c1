"""The pages of the benchmarks are those of their results, and their tables hold numbers."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS, PAGES = ROOT / "benchmarks" / "results", ROOT / "docs" / "benchmarks"
NUMBER = re.compile(r"-?\d+(\.\d+)?(e[+-]\d+)?|∞|–")
"""A number of a cell. A dash stands for no value."""


def tables(text: str) -> Iterator[list[list[str]]]:
    """Yield each table of a page as its lines of cells. The second line says how columns are aligned."""
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.M):
        lines = [re.split(r"(?<!\\)\|", line.strip("|\n")) for line in block.splitlines()]
        yield [[cell.strip() for cell in line] for line in lines]


def test_pages_are_those_of_the_results() -> None:
    """The generator, run again, would change no page."""
    command = [sys.executable, "benchmarks/pages.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_file_of_results_has_a_page() -> None:
    """Each page has results, and each file of results has a page and a line of the index."""
    results = {path.stem for path in RESULTS.glob("*.json")}
    assert {path.stem for path in PAGES.glob("*.md")} == results | {"index"}
    index = (PAGES / "index.md").read_text("utf-8")
    assert {name for name in results if f"[{name}]({name}.md)" in index} == results


def test_every_picture_is_there() -> None:
    """Each picture that a page shows is a file."""
    for page in PAGES.glob("*.md"):
        for picture in re.findall(r"!\[[^\]]*\]\(([^)]*)\)", page.read_text("utf-8")):
            assert (PAGES / picture).is_file(), f"{page.name} shows {picture}, which is not there"


def test_columns_to_the_right_hold_one_number_a_cell() -> None:
    """Columns of numbers are aligned to the right. Each of their cells is one number or a dash."""
    found = 0
    for page in PAGES.glob("*.md"):
        for _, alignment, *lines in tables(page.read_text("utf-8")):
            for at, mark in enumerate(alignment):
                cells = [line[at] for line in lines] if mark == "--:" else []
                wrong = [cell for cell in cells if not NUMBER.fullmatch(cell)]
                assert not wrong, f"{page.name}: {wrong[:3]} are no numbers"
                found += len(cells)
    assert found > 5000


def test_the_readme_has_the_headlines_of_the_results() -> None:
    """Each number among the README's results is that of the generator."""
    command = [sys.executable, "benchmarks/pages.py", "--headlines"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    readme = " ".join((ROOT / "README.md").read_text("utf-8").split())
    assert " ".join(done.stdout.split()) in readme


def test_readme_prints_the_headlines_of_the_results() -> None:
    """The README holds the headline results as the generator prints them, line breaks aside."""
    command = [sys.executable, "benchmarks/pages.py", "--headlines"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    readme = " ".join((ROOT / "README.md").read_text("utf-8").split())
    missing = [line for line in done.stdout.splitlines() if line not in readme]
    assert not missing, f"README.md lacks: {missing}"
