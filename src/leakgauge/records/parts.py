"""Parts that records of cells and trainings share."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from leakgauge.records.values import Count, Many, Measurement, Name, Part, Text


class Cost(Part):
    """What an attack spent."""

    evaluations: Count = Field(default=0, description="Number of simulated updates.")
    seconds: Measurement = Field(
        default=0.0, description="Time by the clock, in seconds. It differs between two runs."
    )


class Failure(Part):
    """The exception that ended a step."""

    step: Text = Field(
        description='The step that failed: "data", "update", "check", "attack", "metric", "control", "picture", '
        '"training" or "worker".'
    )
    reason: Text = Field(description="The exception in one line.")
    log: Text = Field(
        description="Path of the traceback, relative to the folder of the run. Empty if none was kept."
    )


class Claim(Part):
    """The claim of a defense, or of one part of it: what it hides, from whom, and how to attack it."""

    defense: Text = Field(description="Name of the defense that makes the claim.")
    hides: Text = Field(description="What the defense hides.")
    whom: Text = Field(description="From whom the defense hides it.")
    adversary: Text = Field(description="What an adaptive adversary does against the defense.")


class Defense(Part):
    """A defense at one strength. A chain of defenses is one defense, with one claim for each part."""

    name: Name = Field(
        description='Name of the defense in a specification. "none" without a defense. Names joined by " + " for a '
        "chain."
    )
    repr: Text = Field(description="Exact configuration of the defense.")
    strength_name: Text | None = Field(
        description="Name of the option that measures the strength, for the axis of a figure. Null if there is none."
    )
    strength: Measurement = Field(
        description="Value of that option, in the option's unit. Null if the value is not one number."
    )
    strength_text: Text | None = Field(
        description="The same value as text. It is also given if the value is not one number."
    )
    claims: Many[Claim] = Field(
        description="Claims of the defense, one for each part that makes one."
    )

    @property
    def setting(self) -> float | str | None:
        """The strength as a number, or else as text, or None if there is none."""
        return self.strength if self.strength is not None else self.strength_text


class Network(Part):
    """The model that was attacked or trained."""

    name: Text = Field(
        description="Name of the model in a specification, or of its class. The header's `specification` holds the "
        "options of a named model."
    )
    parameters: Count = Field(description="Number of trainable parameters.")


class Protocol(Part):
    """The local training: what a client computes and shares in one round."""

    name: Name = Field(
        description='Name of the training in a specification ("fedsgd", "fedavg"), or of its class.'
    )
    repr: Text = Field(description="Exact configuration of the training.")
    kind: Literal["gradient", "delta"] = Field(
        description='Kind of the update: a gradient, or "delta" for a difference of weights.'
    )
    local_epochs: Count | None = Field(
        description="Number of passes over a client's batch. Null if it is not known."
    )
    local_steps: Count | None = Field(
        description="Number of steps that a client takes on a batch. Null if it is not known. With the kind "
        '"gradient", 1 means one gradient of one batch.'
    )

    @property
    def single(self) -> bool:
        """Whether the update is one gradient of one batch. It then has no order of examples and no hyperparameters."""
        return self.kind == "gradient" and self.local_steps == 1
