"""Public types refuse values of a wrong kind with a UserError of one line."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import leakgauge as lg
from leakgauge.core.kinds import admits
from leakgauge.core.ranges import Positive, check_ranges

DOMAIN = lg.ImageDomain(1, 2, 2)
NAN, INF = float("nan"), float("inf")


def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3))


def data(**changes: Any) -> lg.data.Dataset:
    given: dict[str, Any] = {"name": "d", "inputs": torch.rand(6, 1, 2, 2), "domain": DOMAIN}
    given |= {"targets": torch.tensor([0, 1, 2, 0, 1, 2]), "classes": 3}
    return lg.data.Dataset(**(given | changes))


def case(**changes: Any) -> lg.Case:
    given: dict[str, Any] = {"name": "c", "data": data(), "model": network()}
    return lg.Case(**(given | {"attacks": [lg.attacks.LinearLayer()]} | changes))


def client(**changes: Any) -> lg.Client:
    given: dict[str, Any] = {"model": network(), "loss": functional.cross_entropy, "classes": 3}
    return lg.Client(**(given | {"domain": DOMAIN} | changes))


def batch() -> lg.Batch:
    return lg.Batch(torch.rand(1, 1, 2, 2), torch.tensor([1]))


@pytest.fixture(scope="module")
def seen() -> lg.Observation:
    return lg.Server().observe(client(), batch(), seeds=lg.Seeds(0))


def refused(make: Callable[[], Any], kind: type[lg.UserError], where: str = "") -> None:
    with pytest.raises(kind) as caught:
        make()
    assert str(caught.value).isprintable()
    assert where in str(caught.value)


class TestInputs:
    @pytest.mark.parametrize("value", [None, "x", True, 3, [], {}, b"x", object, 1j])
    def test_data(self, value: Any) -> None:
        good = torch.rand(1, 1, 2, 2)
        refused(lambda: lg.Batch(value, torch.tensor([1])), lg.DataError, "Batch.inputs")
        refused(lambda: lg.Batch(good, value), lg.DataError, "Batch.targets")
        refused(lambda: data(inputs=value), lg.DataError, "Dataset.inputs")
        refused(lambda: data(targets=value), lg.DataError, "Dataset.targets")
        refused(lambda: data(domain=value), lg.DataError, "Dataset.domain")

    def test_a_sparse_batch(self) -> None:
        refused(
            lambda: lg.Batch(torch.rand(1, 1, 2, 2).to_sparse(), torch.tensor([1])),
            lg.DataError,
            "to_dense",
        )
        refused(lambda: lg.Batch(torch.tensor(1.0), torch.tensor([1])), lg.DataError, "axis")

    @pytest.mark.parametrize(
        "value", [None, "x", True, -1, 0, 1.5, NAN, 10**30, [], torch.tensor(1)]
    )
    def test_counts(self, value: Any) -> None:
        for sides in ((value, 8, 8), (1, value, 8), (1, 8, value)):
            refused(lambda sides=sides: lg.ImageDomain(*sides), lg.DataError, "ImageDomain")
        if value is not None:
            refused(lambda: client(classes=value), lg.SpecificationError, "Client.classes")
        refused(lambda: lg.Utility(clients=value), lg.SpecificationError, "Utility.clients")

    @pytest.mark.parametrize("value", ["x", True, 3, [], lambda: 0, nn.Linear])
    def test_clients(self, value: Any) -> None:
        for name in ("model", "domain", "training", "defense"):
            refused(lambda n=name: client(**{n: value}), lg.SpecificationError, f"Client.{name}")
        if not callable(value):
            refused(lambda: client(loss=value), lg.SpecificationError, "Client.loss")

    @pytest.mark.parametrize("value", ["x", True, None, 3, [1], 1.5, torch.tensor(1.0)])
    def test_tables(self, value: Any) -> None:
        refused(lambda: lg.TableDomain(value), lg.DataError, "TableDomain.columns")
        if not isinstance(value, str):  # A string passes as names, each of one letter.
            refused(lambda: lg.TableDomain.from_ranges(value, [0.0], [1.0]), lg.DataError)
        if value != [1]:
            refused(lambda: lg.TableDomain.from_ranges(["a"], value, [2.0]), lg.DataError)
            refused(lambda: lg.TableDomain.from_ranges(["a"], [0.0], value), lg.DataError)
        if not isinstance(value, int | float | Tensor):
            refused(
                lambda: lg.TableDomain.from_ranges(["a"], [value], [4.0]),
                lg.DataError,
                "Column.low",
            )

    def test_numbers_of_other_libraries_are_ranges(self) -> None:
        low, high = np.zeros(2, np.float32), torch.ones(2)
        domain = lg.TableDomain.from_ranges(["a", "b"], low, high)  # type: ignore[arg-type]
        assert domain == lg.TableDomain.from_ranges(["a", "b"], [0, 0], [1, 1])
        assert type(domain.columns[0].high) is float

    @pytest.mark.parametrize(
        "value", [None, "x", True, [], {"a": None}, {"a": 1}, {1: torch.ones(1)}]
    )
    def test_updates(self, value: Any) -> None:
        refused(lambda: lg.Update(value), lg.UpdateError, "Update.tensors")
        refused(lambda: lg.Update({}, kind="x"), lg.UpdateError, "Update.kind")  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        "options", [{"shuffle": "x"}, {"orders": "x"}, {"orders": ((0.5,),)}, {"shuffle": 1}]
    )
    def test_local_training(self, options: dict[str, Any]) -> None:
        refused(
            lambda: lg.FedAvg(**options), lg.SpecificationError, f"FedAvg.{next(iter(options))}"
        )

    def test_threats_and_defenses(self) -> None:
        refused(lambda: lg.Aggregator(clients=0), lg.SpecificationError, "Aggregator.clients")
        refused(lambda: lg.Utility(rounds=0), lg.SpecificationError, "Utility.rounds")
        refused(lambda: lg.Server(labels="x"), lg.SpecificationError, "Server.labels")  # type: ignore[arg-type]
        refused(lambda: lg.Neighbor(nodes=None), lg.SpecificationError, "Neighbor.nodes")  # type: ignore[arg-type]
        refused(lambda: lg.MaskedUpdate(labels=2), lg.SpecificationError, "MaskedUpdate.labels")  # type: ignore[arg-type]
        refused(lambda: lg.defenses.ATS(policies=None), lg.SpecificationError, "ATS.policies")  # type: ignore[arg-type]
        refused(lambda: lg.defenses.InstaHide(mixed="x"), lg.SpecificationError, "InstaHide.mixed")  # type: ignore[arg-type]


class TestAudits:
    @pytest.mark.parametrize(
        "name", ["attacks", "batch_sizes", "defenses", "examples", "utility", "data", "model"]
    )
    @pytest.mark.parametrize("value", ["x", True, 1.5])
    def test_cases(self, name: str, value: Any) -> None:
        refused(lambda: case(**{name: value}), lg.SpecificationError, f"Case.{name}")

    @pytest.mark.parametrize(
        "value", ["x", NAN, INF, [], torch.tensor(1.0), -1, 10**30, True, None]
    )
    def test_seeds(self, value: Any) -> None:
        refused(
            lambda: lg.audit(case(), seed=value),
            lg.SpecificationError,
            "seed: expected a whole number",
        )

    def test_other_arguments(self) -> None:
        anything: Any = "x"
        refused(lambda: lg.audit(None), lg.SpecificationError, "cases")  # type: ignore[arg-type]
        refused(lambda: lg.audit([anything]), lg.SpecificationError, "cases")
        refused(lambda: lg.audit(case(), max_cells=anything), lg.SpecificationError, "max_cells")
        refused(lambda: lg.audit(case(), watch=anything), lg.SpecificationError, "watch")

    @pytest.mark.parametrize("value", [True, 1, 1.5, [], b"x", "a\0b", "a" * 300])
    def test_folders(self, value: Any) -> None:
        refused(lambda: lg.audit(case(), out=value), lg.OutputError, "output folder")

    @pytest.mark.parametrize("value", [None, True, 1, [], b"x"])
    def test_paths(self, value: Any, tmp_path: Path) -> None:
        refused(lambda: lg.write_report(value), lg.DataError, "run")
        refused(lambda: lg.data.npz(value), lg.DataError, "archive")
        refused(lambda: lg.data.image_folder(value), lg.DataError)
        refused(lambda: lg.Update.load(value), lg.UpdateError, "update file")
        refused(lambda: lg.Update({"a": torch.ones(1)}).save(value), lg.OutputError, "update file")

    def test_a_number_is_no_path_of_an_open_file(self, tmp_path: Path) -> None:
        path = tmp_path / "open"
        with path.open("w") as file:
            refused(lambda: lg.Update.load(file.fileno()), lg.UpdateError)  # type: ignore[arg-type]
            os.fstat(file.fileno())


class TestAttacks:
    def test_options_are_checked_before_the_search(self, seen: lg.Observation) -> None:
        wrong: list[Any] = [lg.attacks.DLG(steps="x"), lg.attacks.DLG(steps=NAN)]  # type: ignore[arg-type]
        wrong += [lg.attacks.AprilMatching(steps="x"), lg.attacks.DropoutInversion(attack="x")]  # type: ignore[arg-type]
        for attack in wrong:
            name = type(attack).__name__
            refused(lambda a=attack: a(seen, seeds=lg.Seeds(0)), lg.SpecificationError, name)
            refused(lambda a=attack: a.plan(seen), lg.SpecificationError, name)

    def test_every_option_of_every_attack(self, seen: lg.Observation) -> None:
        tried = 0
        for name in lg.attacks.__all__:
            part = getattr(lg.attacks, name)
            if not (inspect.isclass(part) and is_dataclass(part)):
                continue
            for field in fields(part):
                attack: Any = part(**{field.name: object()}) if field.init else None
                if isinstance(attack, lg.BaseAttack):
                    refused(lambda a=attack: a.plan(seen), lg.SpecificationError, field.name)
                    tried += 1
        assert tried > 100

    def test_what_an_attack_is_called_with(self, seen: lg.Observation) -> None:
        attack, anything = lg.attacks.DLG(), "x"
        refused(lambda: attack(seen, seeds=anything), lg.SpecificationError, "DLG, seeds")  # type: ignore[arg-type]
        refused(
            lambda: attack(anything, seeds=lg.Seeds(0)), lg.SpecificationError, "DLG, observation"
        )  # type: ignore[arg-type]


def test_what_is_right_is_taken() -> None:
    assert lg.ImageDomain(np.int64(1), 2, 2).shape == (1, 2, 2)  # type: ignore[arg-type]
    assert data(class_names=["a", "b", "c"]).classes == 3
    assert lg.FedAvg(orders=[[0, 1]]).count_steps(2) == 1  # type: ignore[arg-type]
    assert case(examples=range(3), batch_sizes=(1, 2)).cells == 2
    assert replace(client(), classes=None).classes is None


@pytest.mark.parametrize("name", ["c", "c" * 1000, "\x1b\n"])
def test_a_wide_table_is_printed_in_a_short_line(name: str) -> None:
    names = [f"{name}{i}" for i in range(1000)]
    text = repr(lg.TableDomain.from_ranges(names, [0.0] * 1000, [1.0] * 1000))
    assert "1000 columns" in text
    assert len(text) <= 200
    assert text.isprintable()
    narrow = lg.TableDomain.from_ranges(["a"], [0], [1])
    assert repr(narrow) == f"TableDomain(columns={narrow.columns!r})"


@dataclass(frozen=True)
class Own:
    """A user's own part. Its value of `steps` contradicts the annotation."""

    steps: int = None  # type: ignore[assignment]
    rate: Positive = 1.0


def test_a_user_s_own_part_is_checked_where_it_has_a_range_alone() -> None:
    check_ranges(Own())
    refused(lambda: check_ranges(Own(rate=-1)), lg.SpecificationError, "Own.rate")


@pytest.mark.parametrize(
    ("hint", "value", "expected"),
    [
        (int | None, None, True),
        (bool, 1, False),
        (float, 1, True),
        (tuple[int, ...], [1, 2], True),
        (tuple[int, str], (1, "a"), True),
        (tuple[int, str], (1, 2), False),
        (dict[str, Tensor], {"a": torch.ones(1)}, True),
        (Callable[[int], int], len, True),
        (Any, object(), True),
        (list[int], "12", False),
    ],
)
def test_kinds(hint: Any, value: Any, expected: bool) -> None:
    assert admits(hint, value) is expected


HUGE = 10**400
"""A number that is too large for a float."""


@pytest.mark.parametrize(
    "make",
    [
        lambda: lg.core.Noise(std=HUGE),
        lambda: check_ranges(lg.defenses.GaussianNoise(std=HUGE)),
        lambda: lg.FedAvg(learning_rate=HUGE),
        lambda: lg.FedAvg(learning_rate=Fraction(HUGE)),  # type: ignore[arg-type]
        lambda: lg.Column("a", 0, HUGE),
        lambda: lg.Column("a", -HUGE, 0),
        lambda: check_ranges(lg.attacks.InvertingGradients(tv=HUGE)),
    ],
)
def test_numbers_that_no_float_holds(make: Callable[[], Any]) -> None:
    refused(make, lg.UserError, "found a")


def test_a_huge_number_is_not_written_out() -> None:
    words = "found a whole number of 1329 bits, too large for a float"
    refused(lambda: lg.FedAvg(learning_rate=HUGE), lg.SpecificationError, words)


@pytest.mark.parametrize("name", ["", "a\ud800b"])
def test_a_case_has_a_name_that_seeds_can_be_drawn_from(name: str) -> None:
    refused(lambda: case(name=name), lg.SpecificationError, "Case.name: expected a text")
