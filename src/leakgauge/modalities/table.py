"""The modality of rows of tables: scored by the recovered columns, shown value by value."""

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
    """A domain with named columns."""

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns of one row."""
        ...


class TableModality(Modality):
    """The modality of rows of tables. The score of a row is the fraction of its columns that are recovered.

    A column counts as recovered if its error is within 1% of its public range.

    Example:
        >>> import leakgauge as lg
        >>> domain = lg.data.diabetes().domain
        >>> [column.name for column in lg.modalities.TableModality().columns(domain)][:2]
        ['age', 'sex']
    """

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
        """Return errors and the fraction of recovered columns, by name."""
        return {**ERRORS, "columns_read": metrics.columns_read}

    def columns(self, domain: Domain) -> tuple[Column, ...]:
        """Return the columns of a domain with named columns, or an empty tuple for any other."""
        return domain.columns if isinstance(domain, Columned) else ()

    def content(self, sides: Mapping[str, Tensor], save: Save) -> Content:
        """Return the values of each row."""
        values: dict[str, Any] = {side: examples.tolist() for side, examples in sides.items()}
        return Content(rows=Rows(**values))
