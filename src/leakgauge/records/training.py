"""One training: what a defense costs in accuracy, traffic and time."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from leakgauge.records.parts import Defense, Failure, Network, Protocol
from leakgauge.records.values import Count, Many, Measurement, Name, Part, Text


class Examples(Part):
    """A set of examples."""

    name: Text = Field(description="Name of the data set.")
    count: Count = Field(description="Number of examples that were used.")


class Federation(Part):
    """The clients that train together, and how they train."""

    clients: Count = Field(description="Number of clients. Each takes part in every round.")
    rounds: Count = Field(description="Number of rounds that were planned.")
    alpha: Measurement = Field(
        description="Concentration of the Dirichlet distribution that divides the labels among the clients. With a "
        "smaller value, the clients' labels differ more."
    )
    examples: Count | None = Field(
        description="Number of examples that a client trains on in a round. Null if it uses all its examples."
    )
    server_lr: Measurement = Field(
        description="Learning rate with which the server applies the mean update."
    )


class Epsilon(Part):
    """The (epsilon, delta)-differential privacy that the accountant of the defense computed."""

    value: Measurement = Field(
        description="Epsilon of the client with the weakest protection. Null if there is no bound."
    )
    delta: Measurement = Field(description="Delta, a probability in [0, 1].")
    steps: Count = Field(description="Number of rounds that were composed.")
    sample_rate: Measurement = Field(
        description="Fraction of the examples, or of the clients, that a round uses, in (0, 1]."
    )
    note: Text = Field(
        description="The client or example that the epsilon protects, or the reason why there is no epsilon."
    )


class DescribedTraining(Part):
    """The facts of a training that are known before it runs."""

    type: Literal["training"] = Field(default="training", description="Kind of the record.")
    index: Count = Field(
        description="Place of the training in the plan, after all cells. Lines stand in the order in which trainings "
        "were finished."
    )
    id: Name = Field(description="Name of the training, unique in its run.")
    case: Name = Field(description="Name of the case.")
    seed: int = Field(ge=0, description="The root seed.")
    repeat: Count = Field(
        description="Number of the repeat, from 0. Each repeat divides the examples among the clients anew."
    )
    model: Network = Field(description="The model.")
    protocol: Protocol = Field(description="The local training of each client.")
    defense: Defense = Field(description="The defense of each client.")
    federation: Federation = Field(
        description="The clients that train together, and how they train."
    )


class Training(DescribedTraining):
    """One federated training under one defense."""

    status: Literal["trained", "failed"] = Field(description="How the training ended.")
    message: Text = Field(default="", description="What failed. Empty if nothing failed.")
    trained_on: Examples | None = Field(
        default=None,
        description="The training data. Null if the training failed before they were loaded.",
    )
    tested_on: Examples | None = Field(
        default=None,
        description="The test data. Null if the training failed before they were loaded.",
    )
    accuracy: Many[Annotated[float, Field(ge=0, le=1)]] = Field(
        default=(),
        description="Test accuracy in [0, 1], before the first round and after each round.",
    )
    sent_bytes: Many[Count] = Field(
        default=(), description="Bytes that all clients together sent in each round."
    )
    round_seconds: Many[Measurement] = Field(
        default=(),
        description="Time of each round by the clock, in seconds. It differs between two runs.",
    )
    sizes: Many[Count] = Field(default=(), description="Number of examples that each client holds.")
    diverged: bool = Field(
        default=False,
        description="Whether an update was not finite. The round before it is then the last one.",
    )
    epsilon: Epsilon | None = Field(
        default=None, description="Differential privacy. Null if the defense has no accountant."
    )
    failure: Failure | None = Field(
        default=None, description="What failed. Null if nothing failed."
    )

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        """Raise ValueError unless a failed training says what failed."""
        if self.status == "failed" and self.failure is None:
            raise ValueError("a failure, since its status is 'failed'")
        return self

    @property
    def final(self) -> float | None:
        """Test accuracy after the last kept round, or None if there is none."""
        return self.accuracy[-1] if self.accuracy else None
