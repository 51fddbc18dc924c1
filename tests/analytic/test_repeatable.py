"""Kernels repeat bit by bit with one seed."""

from __future__ import annotations

import ast
from pathlib import Path

import leakgauge as lg


def test_each_least_squares_names_a_driver_that_repeats() -> None:
    """The default driver, gelsy, gives other last digits where a tensor lies elsewhere in memory."""
    root = Path(lg.__file__).parent
    silent = []
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.linalg.lstsq":
                drivers = [ast.literal_eval(k.value) for k in node.keywords if k.arg == "driver"]
                if drivers not in (["gels"], ["gelsd"]):
                    silent.append(f"{path.relative_to(root)}:{node.lineno}")
    assert silent == []
