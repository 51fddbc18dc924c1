"""Inspection of a network without any data: up to which batch size algebra reads the input of each layer."""

from leakgauge.inspection.inspecting import inspect
from leakgauge.inspection.result import Advice, Inspection, Row

__all__ = ["Advice", "Inspection", "Row", "inspect"]
