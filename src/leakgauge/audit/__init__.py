"""Audits: specification, planning, execution, records."""

from leakgauge.audit.case import Case, Cell
from leakgauge.audit.keeper import Plan, Run
from leakgauge.audit.machine import available_cores
from leakgauge.audit.records import check_folder, in_order, without_times
from leakgauge.audit.run import audit, execute, plan, plan_from
from leakgauge.audit.scores import assignment, score
from leakgauge.audit.specification import Source, default_text, parse, read
from leakgauge.audit.utility import Utility

__all__ = [
    "Case",
    "Cell",
    "Plan",
    "Run",
    "Source",
    "Utility",
    "assignment",
    "audit",
    "available_cores",
    "check_folder",
    "default_text",
    "execute",
    "in_order",
    "parse",
    "plan",
    "plan_from",
    "read",
    "score",
    "without_times",
]
