"""Runs the README as printed: the quick start's commands, and every example; CONTRIBUTING's too.

`make test` is left out, because whatever calls this runs the tests by itself.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from leakgauge.audit import Source, parse

ROOT = Path(__file__).resolve().parent.parent


def blocks(text: str, language: str) -> list[str]:
    """The fenced code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def main() -> int:
    readme = (ROOT / "README.md").read_text("utf-8")
    quick = readme.split("## Quick start")[1].split("\n## ")[0]
    commands = [line for block in blocks(quick, "sh") for line in block.splitlines() if line]
    programs = blocks(readme, "python")
    recipes = blocks((ROOT / "CONTRIBUTING.md").read_text("utf-8"), "python")
    for specification in blocks(readme, "toml"):
        parse(Source(specification))
    if "make audit" not in commands or len(programs) < 2:
        print("README.md: the quick start or its Python examples are gone", file=sys.stderr)
        return 1
    for command in commands:
        if command != "make test":
            print(f"$ {command}", flush=True)
            subprocess.run(command, shell=True, cwd=ROOT, check=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for program in [*programs, *recipes]:
        print(f"$ python  # {program.splitlines()[0]} ...", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([sys.executable, "-c", program], cwd=folder, env=environment, check=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
