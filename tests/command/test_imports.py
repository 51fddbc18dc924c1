"""Imports: help and error messages need no torch, and every public name resolves, whatever is imported first."""

from __future__ import annotations

import importlib
import os
import pickle
import subprocess
import sys
import types
from collections.abc import Sequence
from pathlib import Path

import pytest

import leakgauge as lg
from leakgauge.catalog import CATALOG
from leakgauge.cli import LISTED
from leakgauge.metrics import CLOSER

LAZY = ("leakgauge", "leakgauge.core", "leakgauge.audit", "leakgauge.report")
"""Packages whose names are imported when they are first used."""
HEAVY = {"jinja2", "numpy", "PIL", "pydantic", "rich", "scipy", "skimage", "sklearn", "torch"}
"""Packages that take longer to import than `leakgauge --help` takes in total."""

COMMAND = """
import sys
from leakgauge.cli import main
sys.argv[0] = "leakgauge"
try:
    code = main()
except SystemExit as end:
    code = end.code
print(*sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
sys.exit(code)
"""


def python(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the text of a Python program in its own process."""
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)


class TestLight:
    """Help and mistakes import no package of HEAVY. The tests look at the imported modules, not at the time."""

    @pytest.mark.parametrize(
        ("arguments", "code", "shown"),
        [
            (["--help"], 0, "{audit,recommend,inspect,list,schema}"),
            (["--version"], 0, f"leakgauge {lg.__version__}\n"),
            (["audit", "--help"], 0, "--max-cells"),
            (["recommend", "--help"], 0, "0.02)"),
            (["list", "--help"], 0, "{attacks,data,defenses,metrics,models,threats}"),
            ([], 2, "see --help"),
            (["audlt"], 2, "invalid choice: 'audlt'"),
            (["list", "atacks"], 2, "invalid choice: 'atacks'"),
            (["audit", "--workers", "0"], 2, "--workers: expected at least 1; found 0"),
            (["audit", "--max-cells", "many"], 2, "invalid int value: 'many'"),
            (["recommend", "nowhere"], 2, "no such file or folder"),
            (["recommend", ".", "--loss", "nan"], 2, "--loss: expected"),
            (["recommend", ".", "--seed", "1"], 2, "found the folder '.'"),
        ],
    )
    def test_the_command_line(self, arguments: Sequence[str], code: int, shown: str) -> None:
        done = python(COMMAND, *arguments)
        *told, modules = done.stderr.splitlines()
        assert done.returncode == code
        assert shown in "".join([done.stdout, *told])
        assert len(told) == (code == 2)
        assert HEAVY.isdisjoint(modules.split())

    def test_the_package(self) -> None:
        done = python("import sys, leakgauge; print(*sys.modules)")
        modules = set(done.stdout.split())
        assert "leakgauge.interrupts" in modules
        assert HEAVY.isdisjoint(modules)

    def test_errors_of_the_command_line(self) -> None:
        done = python("import sys, leakgauge; leakgauge.SpecificationError; print(*sys.modules)")
        modules = set(done.stdout.split())
        assert "leakgauge.core.errors" in modules
        assert HEAVY.isdisjoint(modules)

    def test_the_catalog_lists_what_the_command_line_offers(self) -> None:
        assert tuple(sorted(CATALOG)) == LISTED


class TestNames:
    @pytest.mark.parametrize("package", LAZY)
    def test_every_public_name_resolves(self, package: str) -> None:
        module = importlib.import_module(package)
        assert len(dir(module)) > 10
        assert sorted(module.__all__) == sorted(dir(module))
        unresolved = [name for name in dir(module) if not hasattr(module, name)]
        assert unresolved == []

    @pytest.mark.parametrize("package", LAZY)
    def test_a_wrong_name_is_an_attribute_error(self, package: str) -> None:
        module = importlib.import_module(package)
        with pytest.raises(AttributeError, match="Atack"):
            _ = module.Atack
        with pytest.raises(ImportError, match="Atack"):
            exec(f"from {package} import Atack")
        assert not hasattr(module, "Atack")

    @pytest.mark.parametrize("package", LAZY)
    def test_all_names_at_once(self, package: str) -> None:
        names: dict[str, object] = {}
        exec(f"from {package} import *", names)
        assert set(dir(importlib.import_module(package))) <= names.keys()

    def test_rooms_are_reached_from_the_package(self) -> None:
        """The process imports only `leakgauge`, and reaches its subpackages as attributes."""
        done = python(
            "import leakgauge as lg; print(lg.metrics.CLOSER['psnr'], lg.core.silent.__name__,"
            " lg.analytic.__name__, lg.__version__)"
        )
        shown = f"{CLOSER['psnr']} silent leakgauge.analytic {lg.__version__}\n"
        assert (done.stdout, done.stderr) == (shown, "")

    @pytest.mark.parametrize(
        "first",
        ["", "import leakgauge.audit.grid", "leakgauge.Case", "from leakgauge import audit"],
    )
    def test_audit_is_the_function_whatever_is_imported_first(self, first: str) -> None:
        """Importing the package `leakgauge.audit` would normally replace the function of the same name."""
        done = python(
            f"import leakgauge\n{first}\nfrom leakgauge.audit import Source\n"
            "print(type(leakgauge.audit).__name__, Source.__name__)"
        )
        assert (done.stdout, done.stderr) == ("function Source\n", "")

    def test_what_is_pickled_needs_no_import_before(self) -> None:
        packed = pickle.dumps((lg.Seeds(3), lg.audit, lg.DataError)).hex()
        done = python(
            f"import pickle; seeds, audit, error = pickle.loads(bytes.fromhex('{packed}'))\n"
            "print(seeds.root, audit.__module__, error.__name__)"
        )
        assert (done.stdout, done.stderr) == ("3 leakgauge.audit.run DataError\n", "")
        assert isinstance(lg.audit, types.FunctionType)


BROKEN = {
    "it raises": ("raise RuntimeError('of\\ntwo lines')", "RuntimeError: of two lines"),
    "a library is missing": ("raise ImportError('libcudart.so')", "ImportError: libcudart.so"),
    "it ends the program": ("import sys; sys.exit(7)", "SystemExit: 7"),
    "it is another module": ("x = 1", "torch.py, which has no 'nn'"),
    "it is no Python": ("def (", "SyntaxError: "),
}


@pytest.mark.parametrize(("text", "found"), BROKEN.values(), ids=BROKEN)
def test_a_broken_torch_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, found: str
) -> None:
    (tmp_path / "torch.py").write_text(text, "utf-8")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    done = python(COMMAND.replace("print(", "None and print("), "list", "attacks")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("leakgauge: package 'torch': expected an installation")
    assert found in line
    assert "pip install --force-reinstall torch" in line
