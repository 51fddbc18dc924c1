"""The report: one self-contained HTML page, drawn from records alone, and what is recommended from them."""

from leakgauge.report.frontier import Frontier, Setting, frontiers
from leakgauge.report.page import PAGE, recommendations, render, write
from leakgauge.report.recommendation import LOSS, Recommendation, recommend
from leakgauge.report.records import parse

__all__ = [
    "LOSS",
    "PAGE",
    "Frontier",
    "Recommendation",
    "Setting",
    "frontiers",
    "parse",
    "recommend",
    "recommendations",
    "render",
    "write",
]
