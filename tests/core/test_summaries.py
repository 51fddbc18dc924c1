"""Printed objects show kinds, shapes and sizes in at most 20 lines, and no value of a tensor."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import client, images, mlp
from torch import Tensor, nn
from torch.nn import functional

import leakgauge as lg
from leakgauge import defenses
from leakgauge.audit.case import cells
from leakgauge.core import Snapshot
from leakgauge.core.summaries import brief
from leakgauge.threats.aggregator import Concealed

DATA = lg.Dataset(
    name="noise",
    inputs=torch.rand((200, 1, 8, 8), generator=torch.Generator().manual_seed(0)),
    targets=torch.arange(200) % 4,
    domain=lg.ImageDomain(1, 8, 8),
    classes=4,
    class_names=("a", "b", "c", "d"),
)


@dataclass(frozen=True)
class Shifting(defenses.Undefended):
    """A user's own defense that holds a tensor and prints it."""

    by: Tensor
    array: Any = None


def printed() -> dict[str, Any]:
    """Return one object of each kind, as large as users make them."""
    batch = images(64)
    owner = client(mlp(), defense=Shifting(torch.full((64,), 0.123456), np.full(9, 0.123456)))
    seen = lg.Server(labels=True, label_counts=True, order=True).observe(
        owner, batch, seeds=lg.Seeds(0)
    )
    rounds = lg.threats.SeveralRounds(rounds=3).observe(client(mlp()), batch, seeds=lg.Seeds(0))
    found = lg.Reconstruction(
        inputs=batch.inputs,
        targets=batch.targets,
        found=torch.ones(64, dtype=torch.bool),
        status=lg.Status.UNCONVERGED,
        objectives=tuple(float(i) for i in range(300)),
        trajectory=tuple(Snapshot(i, 0.5, batch.inputs) for i in range(300)),
        notes=tuple(f"note {i} " * 50 for i in range(40)),
    )
    case = lg.Case(
        name="case",
        data=DATA,
        model=mlp(),
        attacks=[lg.attacks.LinearLayer()] * 30,
        batch_sizes=[2],
    )
    group = lg.threats.Aggregator(clients=2)
    return {
        "observation": seen,
        "several rounds": rounds,
        "knowledge": seen.knowledge,
        "update": seen.update,
        "reconstruction": found,
        "snapshot": found.trajectory[0],
        "batch": batch,
        "client": owner,
        "group": lg.federated.Group.of(owner, 2, group.aggregation),
        "concealed": Concealed.of(owner, lg.threats.SecureAggregator(clients=2)),
        "data": DATA,
        "case": case,
        "cell": next(cells([case])),
        "run": lg.audit(case, seed=0),
    }


PRINTED = printed()


@pytest.mark.parametrize("name", PRINTED)
@pytest.mark.parametrize("show", [repr, str])
def test_a_few_short_lines_without_a_tensor(name: str, show: Any) -> None:
    text = show(PRINTED[name])
    lines = text.splitlines()
    assert 1 < len(lines) <= 20
    assert max(map(len, lines)) <= 130
    assert text.startswith(f"{type(PRINTED[name]).__name__}(")
    assert "tensor(" not in text
    assert "array(" not in text
    assert "0.1234" not in text
    for field in fields(PRINTED[name]):
        assert not field.repr or f"    {field.name}=" in text


def test_shapes_and_sizes_are_told() -> None:
    observation, update = repr(PRINTED["observation"]), repr(PRINTED["update"])
    assert "model=Sequential of 7 modules, 5668 parameters" in observation
    assert "loss=torch.nn.functional.cross_entropy" in observation
    assert "tensors=dict of 6 tensors, 5668 numbers" in update
    assert "kind='gradient'" in update
    found = repr(PRINTED["reconstruction"])
    assert "inputs=Tensor (64, 1, 8, 8) of float32" in found
    assert "trajectory=tuple of 300" in found
    assert "records=list of " in repr(PRINTED["run"])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (torch.zeros(2, 3), "Tensor (2, 3) of float32"),
        (nn.Parameter(torch.zeros(2)), "Parameter (2,) of float32"),
        ({"a": torch.zeros(2), "b": torch.zeros(3)}, "dict of 2 tensors, 5 numbers"),
        ({}, "dict of 0"),
        ((1, 2.5, "a", None), "(1, 2.5, 'a', None)"),
        ([1] * 5, "list of 5"),
        ([torch.zeros(1)], "list of 1"),
        ({1, 2}, "{1, 2}"),
        (np.zeros(3), "ndarray (3,) of float64"),
        (functional.mse_loss, "torch.nn.functional.mse_loss"),
        (partial(functional.mse_loss, reduction="sum"), "partial of torch.nn.functional.mse_loss"),
        (nn.MSELoss(), "MSELoss of 1 modules, 0 parameters"),
        ("x" * 300, "'" + "x" * 96 + "..."),
        (Path("a"), repr(Path("a"))),
        (lg.FedAvg(epochs=2), None),
    ],
)
def test_values_in_one_line(value: Any, text: str | None) -> None:
    found = brief(value)
    assert "\n" not in found
    assert len(found) <= 100
    if text is not None:
        assert found == text


def test_what_seeds_a_cell_is_printed_as_ever() -> None:
    """The seeds of a cell depend on the reprs of attack, defense and training."""
    assert repr(lg.FedSGD()) == "FedSGD()"
    assert repr(defenses.GaussianNoise(std=0.1)) == "GaussianNoise(std=0.1)"
    assert repr(lg.attacks.DLG()).startswith("DLG(")
    assert "\n" not in repr(lg.attacks.InvertingGradients())
