"""The report: one self-contained HTML page, drawn from records alone."""

from leakgauge.report.page import render, write

__all__ = ["render", "write"]
