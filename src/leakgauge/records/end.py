"""The last line of a run that was not killed: how it ended."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from leakgauge.records.values import Count, Measurement, Part


class End(Part):
    """How a run ended. A run that was killed has no such line."""

    type: Literal["end"] = Field(default="end", description="Tells the lines apart.")
    completed: Count = Field(description="Cells in these records.")
    planned: Count = Field(description="Cells that were planned.")
    trainings_completed: Count = Field(description="Trainings in these records.")
    trainings_planned: Count = Field(description="Trainings that were planned.")
    failed: Count = Field(description="Cells and trainings in which something failed.")
    interrupted: bool = Field(description="Whether it stopped before all that was planned.")
    seconds: Measurement = Field(
        description="Time by the clock, in seconds. It differs between two runs."
    )
