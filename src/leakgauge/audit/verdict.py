"""Verdicts: whether a batch leaked, by a named rule. Each is judged once, for the record of the cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from leakgauge.core import Status
from leakgauge.metrics import Closer
from leakgauge.metrics.leak import LeakRule, Values
from leakgauge.records import Verdict

REASONS = {
    Status.INAPPLICABLE: "the attack is inapplicable",
    Status.NO_SIGNAL: "nothing was observed: every entry of the update is 0",
    Status.FAILED: "an exception ended the audit",
}
"""Reason why a cell without a reconstruction has no verdict."""
NAMED = 8
"""Largest number of examples that a verdict lists for one part of a rule."""


def unjudged(rule: LeakRule | None, status: Status) -> Verdict:
    """Return the verdict on a cell without a reconstruction."""
    return _verdict(rule, (), REASONS[status])


def judged(
    rule: LeakRule | None,
    scores: Mapping[str, Values],
    control: Mapping[str, Values],
    found: Sequence[bool],
    *,
    better: Closer,
) -> Verdict:
    """Return the verdict on a batch.

    Args:
        rule: The leak rule, or None if this kind of data has no rule.
        scores: Scores of the reconstruction by metric, one value for each example.
        control: Scores of the blind control in the same form. Empty if the control failed.
        found: Whether the attack reconstructed each example.
        better: Whether higher or lower scores of the headline leak more.
    """
    if rule is None:
        return _verdict(None, (None,) * len(found), "there is no rule for this kind of data")
    each = rule.judge(scores, control, found, better=better)
    known = [leaked for leaked in each if leaked is not None]
    if known:
        parts = rule.parts(scores, each, better=better) if rule.instead else ()
        why = f"{sum(known)} of {len(known)} examples leaked{_by(parts)}"
        return _verdict(rule, each, why)
    blind = "no example can be judged" if control else "there is no blind control"
    return _verdict(rule, each, blind)


def _by(parts: Sequence[str | None]) -> str:
    """Return the metrics by which examples leaked, as in `, by ssim`.

    If examples leaked by different metrics, list the examples of each metric, counted from 1.

    Args:
        parts: For each example, the metric by which it leaked, or None if it did not leak.
    """
    places: dict[str, list[str]] = {}
    for number, metric in enumerate(parts, start=1):
        if metric is not None:
            places.setdefault(metric, []).append(str(number))
    if len(places) < 2:
        return "".join(f", by {metric}" for metric in places)
    groups = [f"{_numbers(numbers)} by {metric}" for metric, numbers in places.items()]
    return f": {'; '.join(groups)}"


def _numbers(numbers: Sequence[str]) -> str:
    """Return `example 2` or `examples 1, 3 and 4`. Beyond NAMED examples, return how many more there are."""
    shown, rest = list(numbers[:NAMED]), len(numbers) - NAMED
    if rest > 0:
        shown.append(f"{rest} more")
    *before, last = shown
    return f"examples {', '.join(before)} and {last}" if before else f"example {last}"


def _verdict(rule: LeakRule | None, each: tuple[bool | None, ...], why: str) -> Verdict:
    """Return the record of a verdict. The batch leaks if any example leaks."""
    known = [leaked for leaked in each if leaked is not None]
    return Verdict(
        rule=rule.name if rule else None,
        leaks=any(known) if known else None,
        per_example=each,
        floor=rule.floor if rule else None,
        margin=rule.margin if rule else None,
        why=why,
    )
