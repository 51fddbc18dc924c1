"""Which modality a domain has."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from leakgauge.core import DataError, Domain
from leakgauge.core.kinds import describe_value
from leakgauge.metrics.leak import LeakRule
from leakgauge.modalities.image import ImageModality
from leakgauge.modalities.modality import Modality
from leakgauge.modalities.table import TableModality
from leakgauge.modalities.unknown import UnknownModality

MODALITIES: dict[str, Modality] = {"image": ImageModality(), "table": TableModality()}
"""By the kind of a domain that brings no modality of its own. A domain of another kind is scored and never judged."""
UNKNOWN = UnknownModality()


@runtime_checkable
class HasModality(Protocol):
    """A domain that brings its own modality."""

    @property
    def modality(self) -> Modality:
        """How its examples are scored, judged and shown."""
        ...


def modality_of(domain: Domain) -> Modality:
    """Return the modality of a domain: its own, or that of its kind.

    Raises:
        DataError: what the domain brings is no Modality.
    """
    if not isinstance(domain, HasModality):
        return MODALITIES.get(domain.kind, UNKNOWN)
    own: object = domain.modality
    if not isinstance(own, Modality):
        raise DataError(
            f"domain {domain.kind!r}, modality",
            expected="an object whose class derives from leakgauge.modalities.Modality",
            found=describe_value(own),
            remedy="derive from it, and give its metrics, headline and layout",
        )
    return own


def rules_of(domains: Iterable[Domain]) -> list[LeakRule]:
    """Return the rules by which examples of these domains are judged, in their order, each once."""
    rules = (modality_of(domain).rule for domain in domains)
    return list({rule.name: rule for rule in rules if rule is not None}.values())
