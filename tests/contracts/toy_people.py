"""A domain of people, of whom an error in years is the score: lower values leak more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

import leakgauge as lg
from leakgauge.core import Domain
from leakgauge.metrics.leak import LeakRule
from leakgauge.modalities import Content, Layout, Metric, Modality, Save
from leakgauge.records import Headline, Rows

SPAN, CLASSES = 100, 2
"""Years of the public range, and classes."""


class Years(Modality):
    """Score people by the years by which their age was missed."""

    headline: ClassVar[Headline] = Headline(
        metric="years",
        heading="years off",
        title="error of the age, years",
        unit="years",
        format="number",
        better="lower",
        reads="an age read within {score} years",
        reads_exactly="an age read exactly",
    )
    layout: ClassVar[Layout] = "rows"
    rule: ClassVar[LeakRule | None] = LeakRule(
        name="age below control",
        text="A person counts as leaked when the age is missed by at most 2 years, and by at least 5 less than by the"
        " control.",
        metric="years",
        floor=2.0,
        margin=5.0,
    )

    def metrics(self, domain: Domain, decoys: Tensor) -> dict[str, Metric]:
        return {"years": years}

    def columns(self, domain: Domain) -> tuple[lg.Column, ...]:
        return (
            lg.Column("age", 0, SPAN, unit="years", decimals=1),
            lg.Column("height", 0, 2, "m"),
        )

    def content(self, sides: Mapping[str, Tensor], save: Save) -> Content:
        values: dict[str, Any] = {side: people.tolist() for side, people in sides.items()}
        return Content(rows=Rows(**values))


def years(truth: Tensor, guess: Tensor) -> Tensor:
    """Return the error (B,) of the first coordinate of people (B, 2), in years."""
    return SPAN * (truth - guess)[:, 0].abs().double()


@dataclass(frozen=True)
class People:
    """Age and height (2,)."""

    rated: Modality = field(default_factory=Years)
    kind: ClassVar[str] = "person"
    shape: ClassVar[tuple[int, ...]] = (2,)

    @property
    def modality(self) -> Modality:
        return self.rated

    def to_unit(self, inputs: Tensor) -> Tensor:
        return inputs / torch.tensor([SPAN, 2.0]).to(inputs)

    def from_unit(self, unit: Tensor) -> Tensor:
        return unit * torch.tensor([SPAN, 2.0]).to(unit)


def people(count: int = 60) -> lg.Dataset:
    """Return people drawn from a seed, whose class says who is older."""
    generator = torch.Generator().manual_seed(0)
    unit = torch.rand(count, 2, generator=generator)
    targets = (unit[:, 0] > 0.5).long()
    return lg.Dataset("people", People().from_unit(unit), targets, People(), CLASSES)


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, CLASSES))
