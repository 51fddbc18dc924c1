"""The inspection of a case's model, for the header of a run."""

from __future__ import annotations

from leakgauge.audit.case import Case
from leakgauge.core import LeakGaugeError, SingleGradient
from leakgauge.inspection import inspect
from leakgauge.records import Inspected


def inspected(case: Case) -> Inspected:
    """Return what the model of a case gives away by counting. If it cannot be counted, the verdict says why."""
    steps = 1 if isinstance(case.training, SingleGradient) else _steps(case)
    if steps is None:
        return Inspected(
            case=case.name, verdict="Not counted: the number of local steps is unknown.", exact=None
        )
    try:
        found = inspect(case.model, case.data.domain, steps=steps)
    except LeakGaugeError as error:
        return Inspected(case=case.name, verdict=f"Not counted: {error}", exact=None)
    return Inspected(case=case.name, verdict=found.verdict, exact=found.exact)


def _steps(case: Case) -> int | None:
    """Return the number of local steps on the smallest batch, or None if it is not known."""
    return case.protocol_record(min(case.batch_sizes)).local_steps
