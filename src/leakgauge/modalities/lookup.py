"""The lookup of a domain's modality."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from leakgauge.core import DataError, Domain
from leakgauge.core.kinds import describe_value
from leakgauge.metrics.leak import LeakRule
from leakgauge.modalities.image import ImageModality
from leakgauge.modalities.modality import Modality
from leakgauge.modalities.table import TableModality
from leakgauge.modalities.text import TextModality
from leakgauge.modalities.unknown import UnknownModality

MODALITIES: dict[str, Modality] = {
    "image": ImageModality(),
    "table": TableModality(),
    "text": TextModality(),
}
"""The modality for each kind of domain. It serves domains without their own modality.

A domain of any other kind is scored, but never judged.
"""
UNKNOWN = UnknownModality()


@runtime_checkable
class HasModality(Protocol):
    """A domain with its own modality."""

    @property
    def modality(self) -> Modality:
        """The modality: how examples are scored, judged and shown."""
        ...


def modality_of(domain: Domain) -> Modality:
    """Return the modality of a domain: its own, else the modality of its kind.

    Args:
        domain: The domain.

    Raises:
        DataError: The domain has an attribute `modality` that is no Modality.

    Example:
        >>> import leakgauge as lg
        >>> domain = lg.ImageDomain(channels=1, height=8, width=8)
        >>> lg.modalities.modality_of(domain).headline.title
        'PSNR, dB'
    """
    if not isinstance(domain, HasModality):
        return MODALITIES.get(domain.kind, UNKNOWN)
    own: object = domain.modality
    if not isinstance(own, Modality):
        raise DataError(
            f"domain {domain.kind!r}, modality",
            expected="an object whose class derives from leakgauge.modalities.Modality",
            found=describe_value(own),
            remedy="derive its class from Modality, with metrics, headline and layout",
        )
    return own


def rules_of(domains: Iterable[Domain]) -> list[LeakRule]:
    """Return the rules that judge examples of these domains, in order and without repetition.

    Args:
        domains: Any domains.

    Example:
        >>> import leakgauge as lg
        >>> domains = [lg.data.digits().domain, lg.data.diabetes().domain]
        >>> [rule.name for rule in lg.modalities.rules_of(domains)]
        ['image above control', 'table row above control']
    """
    rules = (modality_of(domain).rule for domain in domains)
    return list({rule.name: rule for rule in rules if rule is not None}.values())
