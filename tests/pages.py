"""Run the code of each page exactly: README, CONTRIBUTING, and the pages under docs.

All Python blocks of one page run as one program, in an empty folder. A block of `text` that follows is what the program
must print there, up to small differences of numbers. Blocks of TOML are checked as specifications.

    python tests/pages.py [PAGE ...]
"""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from leakgauge.audit import Source, parse
from leakgauge.core.errors import LeakGaugeError

ROOT = Path(__file__).resolve().parent.parent
MARK = "<<block ends>>"
LONGEST = 600
"""Seconds after which the program of a page hangs."""
NUMBER = r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?"


def blocks(text: str) -> list[tuple[str, str]]:
    """Return the language and the text of each fenced block, in order."""
    return re.findall(r"^```(\w+)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def program_of(text: str) -> tuple[str, dict[int, str]]:
    """Return all Python blocks of a page as one program, and what it must print after which block."""
    parts, expected, last = list[str](), dict[int, str](), ""
    for language, block in blocks(text):
        if language == "python":
            parts.append(f"{block}\nprint({MARK!r})\n")
        elif language == "text" and last == "python":
            expected[len(parts) - 1] = block
        last = language
    return "\n".join(parts), expected


def close(expected: str, printed: str) -> bool:
    """Return whether two texts are equal, up to numbers that differ by a tenth or by 1.5."""
    if re.sub(NUMBER, "0", expected.strip()) != re.sub(NUMBER, "0", printed.strip()):
        return False
    pairs = zip(re.findall(NUMBER, expected), re.findall(NUMBER, printed), strict=True)
    return all(math.isclose(float(a), float(b), rel_tol=0.1, abs_tol=1.5) for a, b in pairs)


def run(page: Path, longest: float = LONGEST) -> str:
    """Run one page. Return what went wrong, or an empty text."""
    try:
        text = page.read_text("utf-8")
        for language, block in blocks(text):
            if language == "toml":
                parse(Source(block))
    except (OSError, UnicodeError, LeakGaugeError) as error:
        return f"{type(error).__name__}: {error}"
    program, expected = program_of(text)
    if not program:
        return ""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                [sys.executable, "-W", "ignore", "-c", program],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                timeout=longest,
            )
        except subprocess.TimeoutExpired:
            return f"expected the program to end within {longest:g} s, but it still ran"
    if done.returncode:
        return f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    printed = done.stdout.split(MARK)
    if len(printed) != program.count(f"print({MARK!r})") + 1:
        return "expected the program to run to its end, but it ended early with exit code 0"
    wrong = [
        f"expected:\n{block}\nprinted:\n{printed[i].strip()}"
        for i, block in expected.items()
        if not close(block, printed[i])
    ]
    return "\n".join(wrong)


def pages() -> list[Path]:
    """Return the pages whose programs run alone.

    Generated pages hold no programs of their own. `tests/records/test_documentation.py` runs the lines of records.md.
    """
    apart = {
        "api",
        "attacks",
        "benchmarks",
        "defenses",
        "records.md",
        "threats",
        "_build",
        "_parts",
    }
    found = [
        path
        for path in sorted((ROOT / "docs").rglob("*.md"))
        if path.relative_to(ROOT / "docs").parts[0] not in apart
    ]
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *found]


def main(names: list[str]) -> int:
    """Run pages two at a time, and print which fail."""
    chosen = [Path(name).resolve() for name in names] or pages()
    failed = 0
    with ThreadPoolExecutor(2) as pool:
        for page, wrong in zip(chosen, pool.map(run, chosen), strict=True):
            print(
                f"{page.relative_to(ROOT) if page.is_relative_to(ROOT) else page}: {'failed' if wrong else 'ok'}",
                flush=True,
            )
            if wrong:
                failed += 1
                print(wrong)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
