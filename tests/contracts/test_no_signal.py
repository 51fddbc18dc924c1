"""An update of zeros has its own status and messages. It is never evidence that nothing leaks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import images, mlp
from support.frontiers import END, HEADER, attacked, frontier, trained
from torch import Tensor
from torch.nn import functional

import leakgauge as lg
from leakgauge.defenses import Clipping
from leakgauge.records import read
from leakgauge.report import parse
from leakgauge.report.leak import verdict
from leakgauge.report.recommendation import Reason, recommend

DOMAIN = lg.ImageDomain(1, 8, 8)


def nothing(outputs: Tensor, targets: Tensor) -> Tensor:
    return 0 * functional.cross_entropy(outputs, targets)


def case(**changes: Any) -> lg.Case:
    batch = images(8)
    data = lg.Dataset("gray", batch.inputs, batch.targets, DOMAIN, 4)
    settings: dict[str, Any] = {
        "name": "silent",
        "data": data,
        "model": mlp(),
        "attacks": [lg.attacks.LinearLayer(), lg.attacks.InvertingGradients(steps=2)],
    }
    return lg.Case(**(settings | changes))


SILENT: dict[str, dict[str, Any]] = {
    "loss times 0": {"loss": nothing},
    "loss times 0, fedavg": {"loss": nothing, "training": lg.FedAvg(learning_rate=0.1)},
    "rate 1e-30": {"training": lg.FedAvg(learning_rate=1e-30, epochs=2)},
    "bound 1e-300": {"defenses": [Clipping(norm=1e-300)]},
    "bound 1e-300, fedavg": {
        "training": lg.FedAvg(learning_rate=0.1),
        "defenses": [Clipping(norm=1e-300)],
    },
}


@pytest.mark.parametrize("name", SILENT)
def test_nothing_observed_is_a_status_and_no_verdict(name: str, tmp_path: Path) -> None:
    run = lg.audit(case(**SILENT[name]), seed=0, out=tmp_path / "run")
    silent = [cell for cell in run.cells if cell.status == "no signal"]
    assert len(silent) == 2
    for cell in silent:
        assert "nothing was observed" in cell.message
        assert cell.scores == {}
    records = parse(read(tmp_path / "run" / "records.jsonl"))
    quiet = [cell for cell in records.cells if cell.silent]
    assert [cell.verdict.leaks for cell in quiet] == [None, None]
    told = verdict(quiet)
    assert told.tone == "open"
    assert told.sentence == "No verdict: all audits observed an update of zeros."


def test_a_defense_that_sends_zeros_is_not_recommended_for_it() -> None:
    silent = attacked("zeros", 1.0, None, status="no signal")
    found = frontier(
        attacked("none", None, 40.0), silent, trained("none", None, 0.9), trained("zeros", 1.0, 0.9)
    )
    advice = recommend(found)
    assert advice.chosen is None
    (refused,) = [r for r in advice.refused if not r.setting.undefended]
    assert Reason.UNTRIED in refused.reasons
    assert "all zeros" in refused.words


def test_one_update_of_zeros_among_others_weakens_what_held() -> None:
    held, silent = attacked("noise", 1.0, 9.0), attacked("noise", 1.0, None, status="no signal")
    found = frontier(
        attacked("none", None, 40.0),
        held,
        silent,
        trained("none", None, 0.9),
        trained("noise", 1.0, 0.9),
    )
    advice = recommend(found)
    assert advice.evidence == "weak"
    cells = parse([HEADER, held, silent, END]).cells
    assert "1 audit observed an update of zeros" in verdict(cells).caveat


@pytest.mark.parametrize(
    "attack", [lg.attacks.Auto(), lg.attacks.IDLG(steps=1)], ids=["auto", "idlg"]
)
def test_an_attack_called_by_hand_says_so(attack: lg.Attack) -> None:
    client = lg.Client(model=mlp(), loss=nothing, domain=DOMAIN, classes=4)
    observation = lg.Server().observe(client, images(1), seeds=lg.Seeds(0))
    found = attack(observation, seeds=lg.Seeds(0))
    assert found.status is lg.Status.NO_SIGNAL
    assert not bool(found.found.any())
    assert found.residual is None
    assert torch.equal(found.inputs, torch.full((1, 1, 8, 8), 0.5))
