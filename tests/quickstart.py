"""Run the commands with which the README begins.

The caller of this script runs `make test` itself, so it is left out. `tests/pages.py` runs the code of all pages.
"""

from __future__ import annotations

import subprocess
import sys

from pages import ROOT, blocks


def main() -> int:
    """Run each command of the section on installing. Return 1 if the commands are gone."""
    readme = (ROOT / "README.md").read_text("utf-8")
    section = readme.split("## Install and run")[1].split("\n## ")[0]
    shell = [block for language, block in blocks(section) if language == "sh"]
    commands = [line.partition("#")[0].strip() for block in shell for line in block.splitlines()]
    if "make audit" not in commands or "make test" not in commands:
        print(
            "README.md: expected `make audit` and `make test` under Install and run",
            file=sys.stderr,
        )
        return 1
    for command in commands:
        if command != "make test":
            print(f"$ {command}", flush=True)
            subprocess.run(command, shell=True, cwd=ROOT, check=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
