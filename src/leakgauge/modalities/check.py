"""A check of a domain's modality before an audit runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from torch import Tensor

from leakgauge.core import DataError, Domain
from leakgauge.core.kinds import admits, describe_value
from leakgauge.metrics.leak import LeakRule
from leakgauge.modalities.lookup import modality_of
from leakgauge.records import Headline


def check_modality(domain: Domain, examples: Tensor) -> None:
    """Check that a domain's modality measures the metrics that its headline and its rule use.

    The check builds the metrics. So weights that do not fit raise an error now, not after the first
    attack.

    Args:
        domain: The domain.
        examples: At least one example `(N, *shape)` of the domain.

    Raises:
        DataError: A metric is missing, or a part of the modality has the wrong type.

    Example:
        >>> import leakgauge as lg
        >>> data = lg.data.digits()
        >>> lg.modalities.check_modality(data.domain, data.inputs[:1])
    """
    modality = modality_of(domain)
    # One example serves as a decoy, because some metrics need decoys.
    measured = modality.metrics(domain, examples[:1])
    where = f"domain {domain.kind!r}"
    if not admits(Mapping[str, Callable[..., Any]], measured):
        raise DataError(
            f"{where}, metrics",
            expected="a dictionary from names to functions",
            found=describe_value(measured),
            remedy=f"correct {type(modality).__name__}.metrics",
        )
    headline: object = getattr(modality, "headline", None)
    if not isinstance(headline, Headline):
        raise DataError(
            f"{where}, headline",
            expected="a leakgauge.records.Headline",
            found=describe_value(headline),
            remedy=f"set headline in {type(modality).__name__}",
        )
    _check_named(f"{where}, headline", headline.metric, measured)
    if headline.format == "decibels" and headline.better == "lower":
        raise DataError(
            f"{where}, headline",
            expected="better='higher' for decibels, which are higher for a closer copy",
            found="better='lower'",
            remedy="use format='number', and name the unit in title and unit",
        )
    rule: object = modality.rule
    if rule is not None and not isinstance(rule, LeakRule):
        raise DataError(
            f"{where}, rule",
            expected="a leakgauge.metrics.leak.LeakRule, or None",
            found=describe_value(rule),
            remedy=f"set rule in {type(modality).__name__}",
        )
    if modality.rule is not None:
        _check_rule(f"{where}, rule {modality.rule.name!r}", modality.rule, headline, measured)


def _check_rule(where: str, rule: LeakRule, headline: Headline, measured: Collection[str]) -> None:
    """Raise DataError unless the rule judges the headline's metric, the only one whose direction is known."""
    for metric in (rule.metric, *([rule.instead.metric] if rule.instead else [])):
        _check_named(where, metric, measured)
    if rule.metric != headline.metric:
        raise DataError(
            where,
            expected=f"the metric of the headline, {headline.metric!r}, which says whether higher or lower leaks more",
            found=repr(rule.metric),
            remedy="use the headline's metric in the rule, or make the rule's metric the headline",
        )


def _check_named(where: str, metric: str, measured: Collection[str]) -> None:
    """Raise DataError unless a metric is measured."""
    if metric not in measured:
        raise DataError(
            where,
            expected=f"a metric that its modality measures: {', '.join(map(repr, measured))}",
            found=repr(metric),
            remedy="name one of these metrics, or add it to the modality's metrics",
        )
