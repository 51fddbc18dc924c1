"""Whether a batch leaked, judged once, by a named rule, when its record is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from leakgauge.core import Status
from leakgauge.metrics.leak import LeakRule, Values
from leakgauge.records import Verdict

REASONS = {
    Status.INAPPLICABLE: "the attack is inapplicable",
    Status.NO_SIGNAL: "nothing was observed: every entry of the update is 0",
    Status.FAILED: "an exception ended the audit",
}


def unjudged(rule: LeakRule | None, status: Status) -> Verdict:
    """Return the verdict on a cell without a reconstruction."""
    return _verdict(rule, (), REASONS[status])


def judged(
    rule: LeakRule | None,
    scores: Mapping[str, Values],
    control: Mapping[str, Values],
    found: Sequence[bool],
) -> Verdict:
    """Return the verdict on a batch.

    Args:
        rule: None if there is none for this kind of data.
        scores: by metric, a value for each example.
        control: the same of the blind control; empty if it failed.
        found: whether the attack has a guess of each example.
    """
    if rule is None:
        return _verdict(None, (None,) * len(found), "there is no rule for this kind of data")
    each = rule.judge(scores, control, found)
    known = [leaked for leaked in each if leaked is not None]
    if known:
        return _verdict(rule, each, f"{sum(known)} of {len(known)} examples leaked")
    blind = "no example can be judged" if control else "there is no blind control"
    return _verdict(rule, each, blind)


def _verdict(rule: LeakRule | None, each: tuple[bool | None, ...], why: str) -> Verdict:
    known = [leaked for leaked in each if leaked is not None]
    return Verdict(
        rule=rule.name if rule else None,
        leaks=any(known) if known else None,
        per_example=each,
        floor=rule.floor if rule else None,
        margin=rule.margin if rule else None,
        why=why,
    )
