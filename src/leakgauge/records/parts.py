"""Parts that cells and trainings share."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from leakgauge.records.values import Count, Many, Measurement, Name, Part, Text


class Cost(Part):
    """What an attack spent."""

    evaluations: Count = Field(default=0, description="Simulated updates that were computed.")
    seconds: Measurement = Field(
        default=0.0, description="Time by the clock, in seconds. It differs between two runs."
    )


class Failure(Part):
    """What an exception ended."""

    step: Text = Field(
        description='What was done: "data", "update", "check", "attack", "metric", "control", "picture", "training"'
        ' or "worker".'
    )
    reason: Text = Field(description="The exception in one line.")
    log: Text = Field(
        description="Path of the traceback, relative to the folder of the run; empty if none was kept."
    )


class Claim(Part):
    """What a defense, or a part of one, hides, from whom, and what an adversary does who knows it."""

    defense: Text = Field(description="Name of the defense that claims it.")
    hides: Text = Field(description="What it hides.")
    whom: Text = Field(description="From whom.")
    adversary: Text = Field(description="What an adversary does who knows the defense.")


class Defense(Part):
    """A defense at one strength. A chain of defenses is one defense, with a claim for each part."""

    name: Name = Field(
        description='Its name in a specification; "none" without a defense, and names joined by " + " for a chain.'
    )
    repr: Text = Field(description="Its exact configuration.")
    strength_name: Text | None = Field(
        description="The option that a figure puts on its axis; null if it has none."
    )
    strength: Measurement = Field(
        description="Value of that option, in the option's unit; null if it is no number, or several."
    )
    strength_text: Text | None = Field(
        description="The same value as text, also where it is no number, or several."
    )
    claims: Many[Claim] = Field(description="What it claims, one entry for each part that claims.")

    @property
    def setting(self) -> float | str | None:
        """The strength as a number, or else as text, or None if there is none."""
        return self.strength if self.strength is not None else self.strength_text


class Network(Part):
    """The model that was attacked or trained."""

    name: Text = Field(
        description="Its name in a specification, or that of its class. Options of a named model stand in the"
        " header's `specification`."
    )
    parameters: Count = Field(description="Trainable parameters.")


class Protocol(Part):
    """The local training: what a client computes, and shares, in one round."""

    name: Name = Field(
        description='Its name in a specification ("fedsgd", "fedavg"), or that of its class.'
    )
    repr: Text = Field(description="Its exact configuration.")
    kind: Literal["gradient", "delta"] = Field(
        description="What is shared: a gradient, or a difference of weights."
    )
    local_epochs: Count | None = Field(
        description="Passes over a client's batch; null if they are not known."
    )
    local_steps: Count | None = Field(
        description="Steps that a client takes on a batch; null if they are not known. 1 with the kind"
        ' "gradient" is one gradient of one batch.'
    )

    @property
    def single(self) -> bool:
        """Whether the update is one gradient, so that it has no order and no hyperparameters."""
        return self.kind == "gradient" and self.local_steps == 1
