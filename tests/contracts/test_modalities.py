"""No code branches on the kind of a domain, except for the table of modalities."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import torch

import leakgauge as lg
from leakgauge import metrics
from leakgauge.audit.outcome import Judge
from leakgauge.core import space_of
from leakgauge.modalities import (
    MODALITIES,
    ImageModality,
    Metric,
    Modality,
    TextModality,
    UnknownModality,
    modality_of,
    rules_of,
)

SOURCE = Path(lg.__file__).parent
UPDATES = {"gradient", "delta"}
"""Kinds of updates."""
WAYS = {"even", "log", "linear"}
"""Scales on which a figure places strengths."""
LAYERS = {"convolution", "linear", "embedding", "attention"}
"""Kinds of layers of a network."""
ARCHIVES = {"images", "inputs"}
"""Names of arrays in an archive file."""


def compared(tree: ast.AST) -> list[str]:
    """Return the strings with which a module compares `kind`, except for the `kind` of a NumPy type."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Compare):
            continue
        sides = [node.left, *node.comparators]
        kinds = [side for side in sides if names_kind(side)]
        constants = [
            each.value
            for side in sides
            for each in ast.walk(side)
            if isinstance(each, ast.Constant) and isinstance(each.value, str)
        ]
        if kinds:
            found += [text for text in constants if text not in UPDATES | WAYS | ARCHIVES | LAYERS]
    return found


def names_kind(side: ast.expr) -> bool:
    """Return whether an expression is `kind`, or an attribute `kind` of something other than a `dtype`."""
    if isinstance(side, ast.Name):
        return side.id == "kind"
    owner = side.value if isinstance(side, ast.Attribute) and side.attr == "kind" else None
    return owner is not None and not (isinstance(owner, ast.Attribute) and owner.attr == "dtype")


@pytest.mark.parametrize(
    "text",
    [
        'domain.kind == "image"',
        'x = "table" if cell.data.kind != "image" else 1',
        'kind in ("image", "table")',
    ],
)
def test_the_search_finds_branches(text: str) -> None:
    assert compared(ast.parse(text))


def test_no_module_branches_on_the_kind_of_data() -> None:
    found = {
        str(path.relative_to(SOURCE)): branches
        for path in sorted(SOURCE.rglob("*.py"))
        if (branches := compared(ast.parse(path.read_text("utf-8"))))
    }
    assert found == {}


def test_no_template_branches_on_the_kind_of_data() -> None:
    templates = sorted(SOURCE.rglob("*.j2"))
    assert templates
    pattern = re.compile(r"\bkind\b\s*(==|!=|\bin\b)")
    assert [p.name for p in templates if pattern.search(p.read_text("utf-8"))] == []


class Scans:
    """A domain of a user's own kind, with a modality if one is given."""

    kind = "scan"
    shape = (1, 4, 4)

    def __init__(self, modality: object = None) -> None:
        if modality is not None:
            self.modality = modality

    def to_unit(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs

    def from_unit(self, unit: torch.Tensor) -> torch.Tensor:
        return unit


def test_a_domain_brings_its_own_or_has_that_of_its_kind() -> None:
    own = ImageModality()
    assert modality_of(Scans(own)) is own
    assert modality_of(lg.ImageDomain(1, 2, 2)) is MODALITIES["image"]
    assert modality_of(lg.TableDomain.from_ranges(["a"], [0], [1])) is MODALITIES["table"]
    assert isinstance(modality_of(Scans()), UnknownModality)


def test_what_is_no_modality_is_refused_in_one_line() -> None:
    with pytest.raises(lg.DataError, match="derives from leakgauge") as caught:
        modality_of(Scans("image"))
    assert "\n" not in str(caught.value)


class Whole(UnknownModality):
    """A modality whose metrics compare the examples without a change of coordinates."""

    def coordinates(self, domain: lg.Domain, examples: torch.Tensor) -> torch.Tensor:
        return examples

    def metrics(self, domain: lg.Domain, decoys: torch.Tensor) -> dict[str, Metric]:
        return {"psnr": metrics.psnr, "equal": lambda x, y: (x == y).flatten(1).double().mean(1)}


def test_metrics_compare_in_the_coordinates_of_the_modality() -> None:
    domain = Scans(Whole())
    truth = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    found = lg.Reconstruction(
        inputs=truth.flip(0),
        targets=None,
        found=torch.tensor([True, True]),
        status=lg.Status.UNCONVERGED,
    )
    judge = Judge(domain, lg.Batch(truth, torch.tensor([0, 1])), truth[:0], labels_granted=True)
    judged = judge(found)
    assert judged.order.tolist() == [1, 0]
    assert judged.scores["equal"] == [1.0, 1.0]


def test_data_of_an_unknown_kind_is_scored_and_never_judged() -> None:
    generator = torch.Generator().manual_seed(0)
    data = lg.Dataset(
        "scans", torch.rand(6, 1, 4, 4, generator=generator), torch.arange(6) % 2, Scans(), 2
    )
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
    case = lg.Case(name="scans", data=data, model=model, attacks=[lg.attacks.LinearLayer()])
    (cell,) = lg.audit(case).cells
    assert set(cell.scores) >= {"mse", "psnr"}
    assert cell.verdict.leaks is None
    assert (cell.images, cell.rows) == (None, None)


@pytest.mark.parametrize("modality", [*MODALITIES.values(), UnknownModality()])
def test_the_headline_is_a_metric_that_is_measured(modality: Modality) -> None:
    domain: lg.Domain = lg.ImageDomain(1, 8, 8)
    if isinstance(modality, TextModality):
        domain = lg.TextDomain(9, 4)
    measured = modality.metrics(domain, space_of(domain).sample(2, torch.Generator()))
    assert modality.headline.metric in measured
    if modality.rule is not None:
        assert modality.rule.metric in measured


def test_a_reader_gets_the_rules_of_the_domains_of_a_run() -> None:
    image, table = lg.ImageDomain(1, 8, 8), lg.TableDomain.from_ranges(["a"], [0], [1])
    assert rules_of([Scans()]) == []
    names = [rule.name for rule in rules_of([image, table, Scans(), image])]
    assert names == ["image above control", "table row above control"]
