"""How each kind of data is judged and shown: its headline score, its leak rule and its layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from leakgauge.core import Domain
from leakgauge.metrics.leak import IMAGE_RULE, TABLE_RULE, LeakRule
from leakgauge.records import Headline


@dataclass(frozen=True, kw_only=True)
class Shown:
    """How one kind of data is judged and shown.

    Args:
        headline: the score that stands for leakage.
        layout: how a page shows an example.
        rule: when an example leaked; None if nothing is judged.
    """

    headline: Headline
    layout: Literal["pictures", "rows"]
    rule: LeakRule | None


DECIBELS = Headline(
    metric="psnr",
    heading="PSNR",
    title="PSNR, dB",
    unit="dB",
    format="decibels",
    better="higher",
    reads="rebuilt at {score}",
    reads_exactly="rebuilt exactly",
)
COLUMNS = Headline(
    metric="columns_read",
    heading="columns",
    title="columns read",
    unit="columns read",
    format="percent",
    better="higher",
    reads="{score} of a row's columns read",
    reads_exactly="all of a row's columns read",
)
KINDS = {
    "image": Shown(headline=DECIBELS, layout="pictures", rule=IMAGE_RULE),
    "table": Shown(headline=COLUMNS, layout="rows", rule=TABLE_RULE),
}
UNKNOWN = Shown(headline=DECIBELS, layout="pictures", rule=None)
RULES = (IMAGE_RULE, TABLE_RULE)
"""The rules that a header explains."""


def shown_as(domain: Domain) -> Shown:
    """Return how a domain's data is judged and shown. A user's own kind has a PSNR and no rule."""
    return KINDS.get(domain.kind, UNKNOWN)
