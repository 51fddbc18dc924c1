"""The message that the command prints before an audit starts."""

from __future__ import annotations

import io

import pytest
from conftest import images, mlp
from rich.console import Console

import leakgauge as lg
from leakgauge.audit import plan
from leakgauge.console import announce


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([1], "1 audit, beside its blind control, in 1 process: "),
        ([1, 2], "2 audits, each beside its blind control, in 1 process: "),
    ],
)
def test_audits_are_counted(sizes: list[int], expected: str) -> None:
    whole = images(8)
    data = lg.Dataset("noise", whole.inputs, whole.targets, lg.ImageDomain(1, 8, 8), classes=4)
    attacks = [lg.attacks.LinearLayer()]
    case = lg.Case(name="noise", data=data, model=mlp(), attacks=attacks, batch_sizes=sizes)
    stream = io.StringIO()
    announce(Console(file=stream, width=200), plan([case], seed=0), 1, "runs")
    assert stream.getvalue().startswith(expected)
