"""If several attacks of a case share a name, their names include the options that differ."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console
from support.made import cell, defended, end, header, training

from leakgauge.records import Cell, line_of
from leakgauge.report import recommendations, render
from leakgauge.report.variants import distinguish
from leakgauge.summary import tables


def named(*reprs: str) -> list[str]:
    """Return the names that the report gives attacks of these configurations. Each is `mine` in its record."""
    return [found.attack.name for found in distinguish([run(text) for text in reprs])]


def run(text: str, index: int = 0, case: str = "photographs") -> Cell:
    return cell(index=index, id=f"{index}", case=case, attack={"name": "mine", "repr": text})


@pytest.mark.parametrize(
    ("reprs", "expected"),
    [
        (["Mine(steps=20, lr=0.1)"], ["mine"]),
        (["Mine(steps=20)", "Mine(steps=20)"], ["mine", "mine"]),
        (["Mine(steps=20, lr=0.1)", "Mine(steps=40, lr=0.1)"], ["steps = 20", "steps = 40"]),
        (["Mine()", "Mine(steps=40)"], ["", "steps = 40"]),
        (
            ["M(steps=1, lr=0.1)", "M(steps=2, lr=0.1)", "M(steps=1, lr=0.2)"],
            ["steps = 1, lr = 0.1", "steps = 2, lr = 0.1", "steps = 1, lr = 0.2"],
        ),
        (
            ["A(attack=DLG(steps=1, lr=1))", "A(attack=DLG(steps=2, lr=1))"],
            ["attack.steps = 1", "attack.steps = 2"],
        ),
        (["<Mine one>", "<Mine two>"], ["number 1", "number 2"]),
        (["Mine(1)", "Mine(2)"], ["number 1", "number 2"]),
        (["-" * 3000 + "1", "Mine(x=" + "(" * 3000], ["number 1", "number 2"]),
        (["Mine(x=" + "9" * 5000 + ")", "Mine(x=1)"], ["", "x = 1"]),
    ],
)
def test_what_attacks_of_one_name_are_called(reprs: list[str], expected: list[str]) -> None:
    assert [name.removeprefix("mine").removeprefix(", ") for name in named(*reprs)] == [
        name.removeprefix("mine") for name in expected
    ]


def test_a_long_value_loses_its_middle() -> None:
    first, _ = named(f"Mine(names={list('abcdefghijklmnop')})", "Mine(names=[])")
    assert len(first) < 60
    assert " ... " in first


def test_another_case_is_not_alike() -> None:
    cells = [run("Mine(steps=1)"), run("Mine(steps=2)", case="other")]
    assert [found.attack.name for found in distinguish(cells)] == ["mine", "mine"]


SWEEP = [run("Mine(steps=20)", 0), run("Mine(steps=40)", 1)]


def test_rows_of_the_page_and_of_the_terminal(tmp_path: Path) -> None:
    page = render([header(planned=2), *SWEEP, end()], tmp_path)
    console = Console(width=80, record=True, file=(tmp_path / "out").open("w"))
    for shown in tables(SWEEP):
        console.print(shown)
    printed = " ".join(console.export_text().split())
    for steps in (20, 40):
        assert f"<td>mine, steps = {steps}</td>" in page
        assert f"<h4>mine, steps = {steps} <span>" in page
        assert f"mine, steps = {steps}" in printed


def test_the_worst_attack_of_a_recommendation(tmp_path: Path) -> None:
    noisy = [
        defended(0.1, 30.0, index=2 + i, attack=one.attack.model_dump())
        for i, one in enumerate(SWEEP)
    ]
    trained = [training(), training(index=101, defense=noisy[0].defense.model_dump())]
    lines = map(line_of, [header(planned=4), *SWEEP, *noisy, *trained, end()])
    (tmp_path / "records.jsonl").write_bytes(b"".join(lines))
    (advice,) = recommendations(tmp_path)
    assert "mine, steps = 20, batch of 1, scored" in " ".join(advice.lines())
