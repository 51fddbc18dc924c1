"""One training: what a defense costs in accuracy, traffic and time."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from leakgauge.records.parts import Defense, Failure, Network, Protocol
from leakgauge.records.values import Count, Many, Measurement, Name, Part, Text


class Examples(Part):
    """A set of examples."""

    name: Text = Field(description="Name of the data set.")
    count: Count = Field(description="How many examples of it were used.")


class Federation(Part):
    """Who trains together, and how."""

    clients: Count = Field(description="Clients, of which each takes part in every round.")
    rounds: Count = Field(description="Rounds that were planned.")
    alpha: Measurement = Field(
        description="Concentration of the Dirichlet law that shares the labels out: the smaller, the less alike."
    )
    examples: Count | None = Field(
        description="Examples that a client trains on in a round; null: all of its own."
    )
    server_lr: Measurement = Field(
        description="Learning rate by which the server applies the mean update."
    )


class Epsilon(Part):
    """What the defense's accountant says of (epsilon, delta)-differential privacy."""

    value: Measurement = Field(
        description="Epsilon of the client in most danger; null if there is no bound."
    )
    delta: Measurement = Field(description="Delta, a probability in [0, 1].")
    steps: Count = Field(description="Rounds that were composed.")
    sample_rate: Measurement = Field(
        description="Fraction of the examples, or of the clients, that a round uses, in (0, 1]."
    )
    note: Text = Field(description="Whose epsilon it is, or why there is none.")


class DescribedTraining(Part):
    """What is trained and how, with nothing measured yet."""

    type: Literal["training"] = Field(default="training", description="Tells the lines apart.")
    index: Count = Field(
        description="Place in the plan, after all cells. Lines are in the order in which they were finished."
    )
    id: Name = Field(description="Name of the training, unique in its run.")
    case: Name = Field(description="Name of the case.")
    seed: int = Field(ge=0, description="The root seed.")
    repeat: Count = Field(description="Which repeat, from 0. Each shares the examples out anew.")
    model: Network = Field(description="The model.")
    protocol: Protocol = Field(description="The local training of each client.")
    defense: Defense = Field(description="The defense of each client.")
    federation: Federation = Field(description="Who trains together, and how.")


class Training(DescribedTraining):
    """One federated training under one defense."""

    status: Literal["trained", "failed"] = Field(description="How it ended.")
    message: Text = Field(default="", description="What failed; else empty.")
    trained_on: Examples | None = Field(
        default=None, description="The training data; null if it failed before."
    )
    tested_on: Examples | None = Field(
        default=None, description="The test data; null if it failed before."
    )
    accuracy: Many[Annotated[float, Field(ge=0, le=1)]] = Field(
        default=(), description="Test accuracy in [0, 1], before the first and after each round."
    )
    sent_bytes: Many[Count] = Field(
        default=(), description="Bytes that all clients together sent, of each round."
    )
    round_seconds: Many[Measurement] = Field(
        default=(), description="Seconds by the clock, of each round. They differ between two runs."
    )
    sizes: Many[Count] = Field(default=(), description="Examples that each client holds.")
    diverged: bool = Field(
        default=False, description="Whether an update was not finite. The round before is the last."
    )
    epsilon: Epsilon | None = Field(
        default=None, description="Differential privacy; null if the defense has no accountant."
    )
    failure: Failure | None = Field(default=None, description="What failed; null if nothing did.")

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        """Raise ValueError unless a training that failed tells what did."""
        if self.status == "failed" and self.failure is None:
            raise ValueError("a failure, as its status is 'failed'")
        return self

    @property
    def final(self) -> float | None:
        """Test accuracy after the last round that was kept, or None if there is none."""
        return self.accuracy[-1] if self.accuracy else None
