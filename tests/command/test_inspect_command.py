"""The command `leakgauge inspect`: a table or JSON, and one line for every mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from leakgauge.cli import main

OWN = """
from torch import nn


def build(domain, classes, width=8):
    return nn.Sequential(nn.Flatten(), nn.Linear(12, width), nn.ReLU(), nn.Linear(width, classes))


def image(domain, classes):
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(784, classes))


def moody(domain, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Linear(8, classes)).train()


def failing(domain, classes):
    raise RuntimeError("no network today")
"""


def test_a_table_a_verdict_and_advice(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "lenet", "--shape", "3,32,32", "--batch", "4"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].split() == [
        "layer",
        "outputs",
        "positions",
        "numbers",
        "own",
        "batch",
        "read",
        "attack",
        "note",
    ]
    assert out[4].split()[:6] == ["linear", "10", "1", "768", "9", "9"]
    assert out[6].startswith("Batch 4: exact through features.4, 2 of 4 layers.")
    assert any("freeze or withhold linear" in line for line in out)


def test_json_and_options_of_the_network(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--shape", "1,8,8", "--classes", "5", "--set", "width=16", "--set", "depth=2"]
    assert main(["inspect", "mlp", *arguments, "--clients", "2", "--steps", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["outputs"] for row in found["rows"]] == [16, 5]
    assert (found["steps"], found["clients"], found["batch"]) == (3, 2, None)


def test_a_network_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "inspected_parts.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["inspect", "inspected_parts:build", "--shape", "3,4", "--set", "width=6"]) == 0
    assert "Exact to batch 9" not in capsys.readouterr().out
    assert main(["inspect", "inspected_parts:failing", "--shape", "3,4"]) == 2
    assert "no network today" in capsys.readouterr().err
    assert main(["inspect", "inspected_parts:image", "--shape", "16,16"]) == 2
    told = capsys.readouterr().err
    assert "for examples of shape (16, 16); found" in told
    assert "images need the number of channels in front, as in 1,16,16" in told


@pytest.mark.parametrize(("settings", "told"), [([], True), (["--set", "train=true"], False)])
def test_eval_mode_is_told_if_it_changes_anything(
    settings: list[str],
    told: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "inspected_parts.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["inspect", "inspected_parts:moody", "--shape", "3,4", *settings]) == 0
    assert ("runs in eval mode" in capsys.readouterr().err) == told


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lenet"], "--shape"),
        (["lenet", "--shape", "3,x"], "--shape: expected whole numbers"),
        (["lenet", "--shape", "3,0,4"], "--shape: expected whole numbers"),
        (["lenet", "--shape", ""], "--shape: expected whole numbers"),
        (["lenet", "--shape", "3,9999999,9999999"], "shape"),
        (["lenet", "--shape", "12"], "expected images"),
        (
            ["lenet", "--shape", "16,16"],
            "expected images, of shape (channels, height, width); found",
        ),
        (
            ["lenet", "--shape", "16,16"],
            "shape (16, 16); put the number of channels in front: 1,16,16",
        ),
        (["lennet", "--shape", "3,32,32"], "did you mean 'lenet'?"),
        (["lenet", "--shape", "3,32,32", "--batch", "-2"], "--batch: expected at least 1"),
        (["lenet", "--shape", "3,32,32", "--clients", "0"], "--clients: expected at least 1"),
        (["lenet", "--shape", "3,32,32", "--seed", "-1"], "--seed: expected at least 0"),
        (["lenet", "--shape", "3,32,32", "--seed", str(2**64)], "below 2**64"),
        (
            ["lenet", "--shape", "3,32,32", "--set", "classes=3"],
            "model.classes: expected no option",
        ),
        (["lenet", "--shape", "1,16000,16000"], "whose product is at most"),
        (["lenet", "--shape", "3,32,32", "--set", "chanels=3"], "did you mean 'channels'?"),
        (["lenet", "--shape", "3,32,32", "--set", "channels"], "expected KEY=VALUE"),
        (["nowhere:build", "--shape", "3"], "nowhere"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert words in printed.err
    assert printed.err.count("\n") == 1
