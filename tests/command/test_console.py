"""The message that the command prints before an audit starts."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from conftest import images, mlp
from rich.console import Console

import leakgauge as lg
from leakgauge.audit import Source, plan, plan_from
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


@pytest.mark.parametrize(("train", "told"), [("false", True), ("true", False)])
def test_a_specification_that_runs_a_model_in_eval_mode_says_so(
    train: str, told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "moody_parts.py").write_text(
        "from torch import nn\n\n\ndef build(domain, classes):\n"
        "    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.BatchNorm1d(4), nn.Linear(4, classes))\n"
        "    return net.train()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    model = f'{{name = "moody_parts:build", train = {train}}}'
    spec = f'data = "digits"\nmodel = {model}\nattacks = ["linear_layer"]\ntraining = {{batch_size = 2}}\n'
    stream = io.StringIO()
    announce(Console(file=stream, width=200), plan_from(Source(spec)), 1, "runs")
    line = "runs in eval mode, whatever its own code sets. BatchNorm1d depends on the mode."
    assert (line in stream.getvalue()) == told
