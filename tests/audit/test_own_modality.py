"""A user's own modality. Mistakes that show early are refused before anything runs. Others fail only their cell."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import mlp
from support.audits import case
from torch import Tensor

import leakgauge as lg
from leakgauge.metrics.leak import LeakRule
from leakgauge.modalities import Content, Metric, Modality
from leakgauge.records import Headline, Sides, read

HEADLINE = Headline(
    metric="error",
    heading="error",
    title="error",
    unit="",
    format="number",
    better="higher",
    reads="{score}",
    reads_exactly="all",
)


class Plain(Modality):
    """A modality with one metric, the mean squared error."""

    headline = HEADLINE
    layout = "pictures"

    def metrics(self, domain: lg.Domain, decoys: Tensor) -> dict[str, Metric]:
        return {"error": lambda truth, guess: (truth - guess).square().flatten(1).mean(1)}


class Mine(lg.ImageDomain):
    """Images of a user's own kind. Each test sets its own modality."""

    kind: Any = "mine"  # type: ignore[assignment]
    modality: Any


def audit_modality(tmp_path: Path, **changes: Any) -> lg.Run:
    """Audit two cases: one whose modality is Plain with these changes, and one without mistakes."""
    kind = changes.pop("kind", "mine")
    part = type("Changed", (Plain,), changes)()
    domain = type("Own", (Mine,), {"kind": kind, "modality": part})(1, 8, 8)
    inputs = torch.rand((12, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    data = lg.Dataset("own", inputs, torch.arange(12) % 4, domain, 4)
    cases = [case(name="own", data=data, model=mlp()), case(name="sound")]
    return lg.audit(cases, out=tmp_path / "run")


def fails(*given: Any) -> Any:
    raise RuntimeError("not\ntoday")


def rule(**changes: Any) -> LeakRule:
    return LeakRule(**({"name": "own", "text": "own", "metric": "error", "floor": 1.0} | changes))


KNOWN: dict[str, dict[str, Any]] = {
    "no headline": {"headline": "x"},
    "a layout that is none": {"layout": "hologram"},
    "columns that raise": {"columns": fails},
    "columns that are none": {"columns": lambda self, domain: (1,)},
    "metrics that raise": {"metrics": fails},
    "a margin of text": {"rule": rule(margin="x")},
    "a rule of text": {"rule": "rule"},
    "metrics in a list": {"metrics": lambda self, domain, decoys: ["error"]},
    "a metric that is no function": {"metrics": lambda self, domain, decoys: {"error": 3}},
    "a kind that is no text": {"kind": 3},
}


@pytest.mark.parametrize("changes", KNOWN.values(), ids=KNOWN)
def test_what_can_be_known_is_refused_before_anything_runs(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    with pytest.raises(lg.UserError) as error:
        audit_modality(tmp_path, **changes)
    assert "\n" not in str(error.value)
    assert "errors.pydantic.dev" not in str(error.value)
    assert "AttributeError: 'str'" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_modality_that_cannot_be_asked_for_is_refused() -> None:
    class Raising(lg.ImageDomain):
        modality = property(fails)

    inputs = torch.rand((12, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    data = lg.Dataset("own", inputs, torch.arange(12) % 4, Raising(1, 8, 8), 4)
    with pytest.raises(lg.DataError, match="not today"):
        lg.audit(case(data=data))


def test_images_without_a_grid_are_refused() -> None:
    class Flat(lg.TableDomain):
        kind = "image"  # type: ignore[assignment]

    data = lg.Dataset(
        "flat", torch.rand(4, 3), torch.arange(4), Flat((lg.Column("a", 0, 1),) * 3), 4
    )
    with pytest.raises(lg.DataError, match=r"shape \(C, H, W\); found one of shape \(3,\)"):
        lg.audit(case(data=data, model=torch.nn.Linear(3, 4)))


def saving(name: Any, content: Any = b"x") -> Callable[..., Content]:
    def make(self: Modality, sides: Any, save: Any) -> Content:
        path = save(name, content)
        return Content(images=Sides(original=(path,), reconstruction=(path,), control=(path,)))

    return make


LATE: dict[str, dict[str, Any]] = {
    "a path upwards": {"content": saving("../../../escaped.txt")},
    "the records themselves": {"content": saving("../../records.jsonl")},
    "an absolute path": {"content": saving("/tmp/escaped.txt")},
    "a path of Windows": {"content": saving("..\\escaped.txt")},
    "a dot": {"content": saving("..")},
    "a hidden file": {"content": saving(".profile")},
    "a NUL": {"content": saving("a\0b.png")},
    "a long name": {"content": saving("n" * 300)},
    "a number": {"content": saving(3)},
    "text for bytes": {"content": saving("a.png", "text")},
    "no content": {"content": lambda self, sides, save: None},
}


@pytest.mark.parametrize("changes", LATE.values(), ids=LATE)
def test_a_picture_that_cannot_be_kept_fails_its_cell_alone(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    (tmp_path / "run").mkdir()
    run = audit_modality(tmp_path, **changes)
    failed, sound = run.cells
    assert failed.failure is not None
    assert failed.failure.step == "picture"
    assert "expected" in failed.failure.reason
    assert sound.status == "certified"
    assert [type(each).__name__ for each in read(tmp_path / "run" / "records.jsonl")] == [
        "Header",
        "Cell",
        "Cell",
        "End",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
    assert not (tmp_path / "run" / "images" / "000").exists()


def test_a_part_that_fails_once_it_runs_is_described_as_unknown(tmp_path: Path) -> None:
    asked = []

    def columns(self: Modality, domain: lg.Domain) -> tuple[()]:
        asked.append(domain)
        return () if len(asked) == 1 else fails()

    failed, sound = audit_modality(tmp_path, columns=columns).cells
    assert failed.failure is not None
    assert (failed.status, failed.failure.step) == ("failed", "data")
    assert failed.data.name == "unknown: it could not be described"
    assert not failed.undefended
    assert sound.status == "certified"


def test_a_reason_that_cannot_be_read_fails_its_cell_alone() -> None:
    class Mute:
        __str__ = fails

    class Own:
        requires: frozenset[str] = frozenset()

        def plan(self, observation: lg.Observation) -> lg.Inapplicable:
            return lg.Inapplicable(Mute())  # type: ignore[arg-type]

    failed, sound = lg.audit(case(attacks=[Own(), lg.attacks.LinearLayer()])).cells
    assert failed.failure is not None
    assert (failed.status, failed.failure.step) == ("failed", "check")
    assert sound.status == "certified"


def test_what_an_attack_requires_is_asked_for_with_care() -> None:
    class Own:
        requires = property(fails)

        def plan(self, observation: lg.Observation) -> lg.Inapplicable:
            return lg.Inapplicable("never")

    with pytest.raises(
        lg.SpecificationError, match=r"found one of Own that fails: RuntimeError: not today"
    ):
        lg.audit(case(attacks=[Own()]))


SCORES: dict[str, Callable[[Tensor], Any]] = {
    "flags": lambda truth: torch.ones(len(truth), dtype=torch.bool),
    "two dimensions": lambda truth: torch.ones(len(truth), 2),
    "complex numbers": lambda truth: torch.ones(len(truth)) * 1j,
    "a number": lambda truth: 1.0,
}


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
def test_scores_of_another_kind_are_told_in_our_words(
    tmp_path: Path, score: Callable[[Tensor], Any]
) -> None:
    def metrics(self: Modality, domain: lg.Domain, decoys: Tensor) -> dict[str, Metric]:
        return {"error": lambda truth, guess: score(truth)}

    failed, sound = audit_modality(tmp_path, metrics=metrics).cells
    assert failed.failure is not None
    assert failed.failure.step == "metric"
    expected = "metric 'error': expected a tensor of real numbers of shape (1,), one for each"
    assert failed.failure.reason.startswith(expected)
    assert sound.status == "certified"
