"""Smoke test of a wheel: installed alone in a new virtual environment, used from an empty folder.

    python tests/smoke.py dist/leakgauge-VERSION-py3-none-any.whl

Nothing of the repository is in reach but this file and the versions in `constraints.txt`, so what a wheel lacks shows.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
OURS = re.compile(r"PYTHON|LEAKGAUGE_")
"""Names of environment variables that would bring something of the repository in."""

SMALL = """
name = "Digits"
data = "digits"
model = {name = "mlp", width = 16}
attacks = ["linear_layer", "their_attack:Broken"]
defenses = ["none", {name = "gaussian_noise", std = 1.0}]
utility = {clients = 2, rounds = 2}
"""
BROKEN = """
import leakgauge as lg


class Broken:
    requires = frozenset()

    def plan(self, observation):
        return lg.Plan(evaluations=1, search=self.search)

    def search(self, seeds, progress):
        raise RuntimeError("broken")
"""
EVERY_MODULE = """
import importlib, pkgutil, leakgauge
names = [m.name for m in pkgutil.walk_packages(leakgauge.__path__, "leakgauge.")]
for name in names:
    if name != "leakgauge.__main__":
        importlib.import_module(name)
print(leakgauge.__file__)
"""
AUDIT = """
import leakgauge as lg
data = lg.data.diabetes()
case = lg.Case(name="Patients", data=data, attacks=[lg.attacks.LinearLayer()],
               model=lg.models.build(lg.models.mlp, data.domain, data.classes, width=8))
print(lg.write_report(lg.audit(case, seed=0, out="patients").folder))
"""


class Installed:
    """A virtual environment that holds the wheel and what it depends on, and an empty folder to work in."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.work = folder / "work"
        self.work.mkdir()
        venv.create(folder / "venv", with_pip=True)
        self.programs = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
        # Compiling ahead takes longer than the runs below.
        install = ("-m", "pip", "install", "--quiet", "--no-compile")
        self("python", *install, "-c", str(ROOT / "constraints.txt"), str(wheel))

    def __call__(self, program: str, *arguments: str, code: int = 0) -> str:
        """Run a program of the environment in the empty folder. Return what it printed to standard output.

        Raises:
            AssertionError: it ended with another exit code than `code`, or showed a traceback.
        """
        shown = " ".join([program, *arguments]).replace("\n", "; ")
        clock = time.perf_counter()
        done = subprocess.run(
            [self.programs / program, *arguments],
            cwd=self.work,
            env={k: v for k, v in os.environ.items() if not OURS.match(k)},
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        print(f"$ {shown[:100]}  # {time.perf_counter() - clock:.0f} s", flush=True)
        told = f"{shown}\nexit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        check(done.returncode == code and "Traceback (most" not in done.stderr, told)
        return done.stdout


def check(holds: bool, told: str) -> None:
    """Raise AssertionError with `told` unless something holds; `assert` would be left out by `python -O`."""
    if not holds:
        raise AssertionError(told)


def records(folder: Path) -> list[Mapping[str, Any]]:
    """Return the records of a run."""
    return [json.loads(line) for line in (folder / "records.jsonl").read_text("utf-8").splitlines()]


def main() -> int:
    wheel = Path(sys.argv[1]).resolve()
    version = wheel.name.split("-")[1]
    check(f"\n## {version}\n" in (ROOT / "CHANGELOG.md").read_text("utf-8"), "CHANGELOG.md")
    with tempfile.TemporaryDirectory() as folder:
        run = Installed(Path(folder).resolve(), wheel)
        check(run("leakgauge", "--version") == f"leakgauge {version}\n", "another version")
        check("usage: leakgauge" in run("python", "-m", "leakgauge", "--help"), "no help")
        check("\nlinear_layer: " in run("leakgauge", "list", "attacks"), "no attacks")
        place = Path(run("python", "-c", EVERY_MODULE).strip())
        check(place.is_relative_to(folder), f"imported from {place}")
        check((place.parent / "py.typed").is_file(), "no py.typed")

        (run.work / "small.toml").write_text(SMALL, "utf-8")
        (run.work / "their_attack.py").write_text(BROKEN, "utf-8")
        # The broken attack fails; the others are done.
        run("leakgauge", "audit", "small.toml", "--out", "run", "--workers", "2", code=1)
        found = {
            (record["attack"]["name"], record["status"])
            for record in records(run.work / "run")
            if record["type"] == "cell"
        }
        check(("linear_layer", "certified") in found, f"{found}")
        check(("broken", "failed") in found, f"{found}")
        page = (run.work / "run/report.html").read_text("utf-8")
        check("</html>" in page and "Digits" in page and "<style" in page, "the report")
        check(
            "Digits\n" in run("leakgauge", "recommend", "run", "--loss", "1"), "no recommendation"
        )
        run("leakgauge", "audit", "none.toml", code=2)
        run("leakgauge", "audit", "--workers", "0", code=2)
        shown = run("python", "-c", AUDIT).strip()
        check((run.work / shown).is_file(), shown)
    print(f"{wheel.name}: passed")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
