"""The last line of a run that was not killed."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from leakgauge.records.values import Count, Measurement, Part


class End(Part):
    """How a run ended. A run that was killed has no line of this kind."""

    type: Literal["end"] = Field(default="end", description="Kind of the record.")
    completed: Count = Field(description="Number of cells in these records.")
    planned: Count = Field(description="Number of cells that were planned.")
    trainings_completed: Count = Field(description="Number of trainings in these records.")
    trainings_planned: Count = Field(description="Number of trainings that were planned.")
    failed: Count = Field(description="Number of cells and trainings in which something failed.")
    interrupted: bool = Field(
        description="Whether the run stopped before it had done all of the plan."
    )
    seconds: Measurement = Field(
        description="Time by the clock, in seconds. It differs between two runs."
    )
