"""A user's own defense is a class in one file, without a base class. Its adversary reads its stated effects."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from conftest import client, images, mlp

import leakgauge as lg
from leakgauge.audit import Source, execute, plan_from
from leakgauge.cli import main
from leakgauge.core import Noise, effect
from leakgauge.records import Cell

DEFENSE = '''
from dataclasses import dataclass

import torch

from leakgauge.core import Noise


@dataclass(frozen=True, kw_only=True)
class Fog:
    """Laplacian noise on the update."""

    size: float = 1e-3

    {effects}

    def on_batch(self, inputs, targets, *, seeds):
        return inputs, targets

    def on_model(self, model, *, seeds):
        return model

    def on_training(self, training, *, seeds):
        return training

    def on_update(self, update, *, seeds):
        law = torch.distributions.Laplace(0.0, self.size / 2**0.5)
        with seeds.isolated("fog"):
            return update.map(lambda t: t + law.sample(t.shape).to(t))

    def adapt(self, observed):
        return lambda simulated: simulated
'''
STATED = """
    @property
    def effects(self):
        return (Noise(std=self.size, law="laplacian"),)
"""
AUDIT = """
    data = "digits"
    model = "mlp"
    attacks = [{name = "bayes_optimal", steps = 3}]
    defenses = [{name = "own_fog:Fog", size = [1e-4, 1e-2]}]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_fog", raising=False)
    return tmp_path


def write_defense(folder: Path, effects: str) -> None:
    """Write the user's module with the defense Fog. `effects` is the code of its property `effects`, or empty."""
    (folder / "own_fog.py").write_text(DEFENSE.replace("{effects}", effects.strip()), "utf-8")


def audit(folder: Path, effects: str) -> list[Cell]:
    write_defense(folder, effects)
    return execute(plan_from(Source(AUDIT)), out=folder / "run").cells


def test_its_adaptive_adversary_runs_in_an_audit(folder: Path) -> None:
    cells = audit(folder, STATED)
    assert [cell.status for cell in cells] == ["unconverged"] * 2
    assert {cell.defense.name for cell in cells} == {"fog"}

    import own_fog  # type: ignore[import-not-found]

    told = own_fog.Fog(size=0.5)
    assert effect(told, Noise) == Noise(std=0.5, law="laplacian")
    chain = lg.defenses.Chain(defenses=(lg.defenses.GaussianNoise(std=1.2), told))
    assert effect(chain, Noise) == Noise(std=1.3)


def test_the_adversary_weighs_by_the_noise_that_it_states(folder: Path) -> None:
    write_defense(folder, STATED)
    import own_fog

    attack = lg.attacks.BayesOptimal(steps=1)
    large, small = (
        lg.Server(labels=True).observe(
            client(mlp(), defense=own_fog.Fog(size=size)), images(1), seeds=lg.Seeds(0)
        )
        for size in (1e-1, 1e-3)
    )
    weights = [attack.objective(seen).parts(0.0)[0][0] for seen in (large, small)]
    assert weights[1] == pytest.approx(100 * weights[0])


def test_one_that_states_nothing_is_not_undone(folder: Path) -> None:
    cells = audit(folder, "")
    assert {cell.status for cell in cells} == {"inapplicable"}
    assert all("adds no noise" in cell.message for cell in cells)


def test_wrong_effects_end_a_command_in_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_defense(folder, "effects = 'noise'")
    (folder / "audit.toml").write_text(AUDIT, "utf-8")
    assert main(["audit", str(folder / "audit.toml"), "--out", str(folder / "run")]) == 2
    said = capsys.readouterr().err.strip()
    assert "defense Fog, effects: expected a tuple of effects" in said
    assert "\n" not in said
