"""Rows of tables: scored by the columns that were read, shown value by value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor

from leakgauge import metrics
from leakgauge.core import Column, Domain
from leakgauge.metrics.leak import TABLE_RULE, LeakRule
from leakgauge.modalities.modality import Content, Layout, Metric, Modality, Save
from leakgauge.modalities.unknown import ERRORS
from leakgauge.records import Headline, Rows


@runtime_checkable
class Columned(Protocol):
    """A domain that names its columns."""

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns of one row."""
        ...


class TableModality(Modality):
    """Score rows by the fraction of columns read, each within 1% of its public range."""

    headline: ClassVar[Headline] = Headline(
        metric="columns_read",
        heading="columns",
        title="columns read",
        unit="columns read",
        format="percent",
        better="higher",
        reads="{score} of a row's columns read",
        reads_exactly="all of a row's columns read",
    )
    layout: ClassVar[Layout] = "rows"
    rule: ClassVar[LeakRule | None] = TABLE_RULE

    def metrics(self, domain: Domain, decoys: Tensor) -> dict[str, Metric]:
        return {**ERRORS, "columns_read": metrics.columns_read}

    def columns(self, domain: Domain) -> tuple[Column, ...]:
        return domain.columns if isinstance(domain, Columned) else ()

    def content(self, sides: Mapping[str, Tensor], save: Save) -> Content:
        values: dict[str, Any] = {side: examples.tolist() for side, examples in sides.items()}
        return Content(rows=Rows(**values))
