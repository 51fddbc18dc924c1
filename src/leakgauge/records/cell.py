"""One cell: one attack on one update, its scores beside the blind control's, and the verdict."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from leakgauge.records.parts import Cost, Defense, Failure, Network, Protocol
from leakgauge.records.values import Count, Many, Measurement, Name, Part, Text

PSNR_CAP = 200.0
"""Decibels at which records cap a PSNR, so that an exact copy has a finite one."""
MOST_EXAMPLES = 10**6
"""Largest batch size of a record: the page has an entry for each example."""
MOST_DECIMALS = 12
"""Most decimals of a table's column: float32 tells no more apart."""
Scores = dict[Name, Many[Measurement]]
Ended = Literal[
    "certified", "converged", "unconverged", "diverged", "inapplicable", "no signal", "failed"
]


class Column(Part):
    """One column of a private table."""

    name: Text = Field(description="Its name.")
    unit: Text = Field(description="Unit of its values; may be empty.")
    low: Annotated[float, Field(ge=-1e100, le=1e100)] = Field(
        description="Lower end of its public range, in that unit."
    )
    high: Annotated[float, Field(ge=-1e100, le=1e100)] = Field(
        description="Upper end of its public range, in that unit."
    )
    decimals: int = Field(ge=0, le=MOST_DECIMALS, description="Decimals that a reader is shown.")
    tolerance: Annotated[float, Field(ge=0, le=1e100)] = Field(
        description="A value within this of the truth counts as read, in that unit."
    )


class Headline(Part):
    """The score that stands for leakage of this kind of data, and how it reads."""

    metric: Name = Field(description="Name of the metric, a key of `scores`.")
    heading: Text = Field(description="Head of a narrow column.")
    title: Text = Field(description="Title of an axis, with the unit.")
    unit: Text = Field(description="What a difference of two values counts.")
    format: Literal["decibels", "percent", "number"] = Field(
        description='How a value reads: "decibels" as 31.2 dB, "percent" of a fraction in [0, 1] as 67%, "number" as'
        " 31.2."
    )
    better: Literal["higher", "lower"] = Field(
        description="Which values are better for the adversary: those that leak more."
    )
    reads: Text = Field(description="A value in words. `{score}` stands for it.")
    reads_exactly: Text = Field(
        description="An exact copy in words: a PSNR at its cap, or 0 where lower values leak more."
    )

    def leakage(self, score: float) -> float:
        """Return the score, or its negative if lower values leak more: a larger number is more leakage."""
        return score if self.better == "higher" else -score

    def exact(self, score: float) -> bool:
        """Return whether a score means an exact copy."""
        return score == math.inf if self.better == "higher" else score <= 0

    def ahead(self, score: float | None, control: float | None) -> float:
        """Return how far a score leaks more than the control's: 0 if it does not, or either is missing."""
        if score is None or control is None or self.leakage(score) <= self.leakage(control):
            return 0.0
        return self.leakage(score) - self.leakage(control)


class Data(Part):
    """The private examples."""

    name: Text = Field(description="Name of the data set.")
    kind: Text = Field(
        description='Kind of data: "image", "table" or that of a user\'s own domain.'
    )
    licence: Text = Field(description="Its licence; may be empty.")
    examples: Many[Count] = Field(
        description="Index in the data set of each example of the batch; empty if none was drawn."
    )
    labels: Many[int] | None = Field(
        description="Class index of each example; null if the targets are no classes, or none was drawn."
    )
    label_names: Many[Text] = Field(
        description="Target of each example as text: the name of its class where classes have names."
    )
    columns: Many[Column] | None = Field(description="Columns of a table; null for other data.")
    headline: Headline = Field(description="The score that stands for leakage.")
    layout: Literal["pictures", "rows"] = Field(
        description='How a page shows an example: "pictures" from `images`, "rows" of a table from `rows`.'
    )


class Attack(Part):
    """The attack."""

    name: Name = Field(
        description="Its name in a specification, and in brackets that of an attack within it."
    )
    repr: Text = Field(description="Its exact configuration. Its random draws depend on it.")


class Threat(Part):
    """What the adversary is and knows."""

    name: Text = Field(description="Name of the threat model.")
    grants: Many[Text] = Field(description="Knowledge that it grants, by name, sorted.")
    always: Many[Text] = Field(description="What each adversary has.")


class Control(Part):
    """The blind control: the same attack on an update that holds nothing of this batch."""

    kind: Text = Field(description="Of which examples its update was.")
    scores: Scores = Field(description="As `scores` of the cell; empty if it failed.")
    status: Ended = Field(description="How it ended.")
    message: Text = Field(description="What the attack says of it; may be empty.")


class Moment(Part):
    """One snapshot of an attack under way."""

    evaluations: Count = Field(description="Simulated updates that were computed so far.")
    objective: Measurement = Field(description="The attacker's objective, without a unit.")
    psnr: Measurement = Field(
        description="Median PSNR over the examples, in dB. The attacker does not see it."
    )
    image: Text | None = Field(
        description="Path of a picture of the examples side by side; null for other data."
    )


class Sides(Part):
    """Pictures: a path for each example, relative to the folder of the run."""

    original: Many[Text] = Field(description="The private examples.")
    reconstruction: Many[Text] = Field(description="What the adversary made of them.")
    control: Many[Text] = Field(
        description="What the blind control made of another update; empty if it failed."
    )


Values = Many[Many[Measurement]]


class Rows(Part):
    """Rows of a table: for each example a value for each column, in the column's unit."""

    original: Values = Field(description="The private examples.")
    reconstruction: Values = Field(description="What the adversary made of them.")
    control: Values = Field(
        description="What the blind control made of another update; empty if it failed."
    )


class Verdict(Part):
    """Whether the batch leaked, by a named rule. The audit judges; readers do not judge again."""

    rule: Name | None = Field(
        description="Name of the rule, whose text is in the header; null if there is none for this kind of data."
    )
    leaks: bool | None = Field(
        description="Whether at least one example leaked; null if none could be judged."
    )
    per_example: Many[bool | None] = Field(
        description="Whether each example leaked; null where it could not be judged. Empty if the attack did not run."
    )
    floor: Measurement = Field(
        description="Headline score from which the rule speaks of a leak: the least one, or the largest where lower"
        " values leak more. Null without a rule. An example with a worse score may leak by another score that the rule"
        " names: `why` says by which."
    )
    margin: Measurement = Field(
        description="How far beyond the blind control's score it must be, to the side that leaks more; null if any"
        " distance is enough."
    )
    why: Text = Field(
        description="What was counted, and by which score if the rule names several; or why nothing was judged."
        " Examples are counted from 1."
    )

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        """Raise ValueError unless `leaks` follows from `per_example`."""
        judged = [leaked for leaked in self.per_example if leaked is not None]
        if self.leaks is not (any(judged) if judged else None):
            raise ValueError("a value of `leaks` that follows from `per_example`")
        return self


class Described(Part):
    """What was attacked, with what, knowing what: all that is known before the attack."""

    type: Literal["cell"] = Field(default="cell", description="Tells the lines apart.")
    index: Count = Field(
        description="Place in the plan. Lines are in the order in which they were finished."
    )
    id: Name = Field(description="Name of the cell, unique in its run.")
    case: Name = Field(description="Name of the case.")
    seed: int = Field(ge=0, description="The root seed.")
    batch_size: int = Field(ge=1, le=MOST_EXAMPLES, description="Private examples in the batch, B.")
    repeat: Count = Field(description="Which of the batches of this size, from 0.")
    data: Data = Field(description="The private examples.")
    model: Network = Field(description="The model.")
    protocol: Protocol = Field(description="The local training of the client.")
    defense: Defense = Field(description="The defense of the client.")
    attack: Attack = Field(description="The attack.")
    threat: Threat = Field(description="What the adversary is and knows.")

    @property
    def undefended(self) -> bool:
        """Whether the update left the client as training made it."""
        return self.defense.name == "none"


class Cell(Described):
    """One audit: one attack on one update. Scores and pictures are one value per example."""

    status: Ended = Field(description="How the attack ended.")
    message: Text = Field(
        default="", description="What the attack says of it, or why it could not run; may be empty."
    )
    notes: Many[Text] = Field(default=(), description="What a reader should know of the result.")
    verdict: Verdict = Field(description="Whether the batch leaked, by a named rule.")
    scores: Scores = Field(
        default={},
        description="Metrics of the reconstruction by name, one value for each example. A PSNR is capped at 200 dB,"
        " which means an exact copy. Empty if the attack did not run.",
    )
    control: Control | None = Field(
        default=None, description="The blind control; null if the attack did not run."
    )
    found: Many[bool] = Field(
        default=(),
        description="Whether the attack has a guess of each example; empty if it did not run.",
    )
    residual: Measurement = Field(
        default=None,
        description="Distance of the reconstruction's simulated update from the observed one, as a fraction of its"
        " norm; null if it is not known.",
    )
    objectives: Many[Measurement] = Field(
        default=(), description="Final objective of each restart, the attacker's own."
    )
    restart: Count = Field(default=0, description="Which restart was chosen, from 0.")
    perceptual: Text | None = Field(
        default=None,
        description="By which network images were compared, or why by none; null for other data.",
    )
    candidates: Count | None = Field(
        default=None,
        description="Images among which a reconstruction had to point at its own; null if there was no such test.",
    )
    trajectory: Many[Moment] = Field(
        default=(), description="Snapshots along the attack, the first one first."
    )
    images: Sides | None = Field(default=None, description="Pictures; null for other data.")
    rows: Rows | None = Field(default=None, description="Rows of a table; null for other data.")
    cost: Cost = Field(default=Cost(), description="What the attack spent.")
    control_cost: Cost = Field(default=Cost(), description="What the blind control spent.")
    failure: Failure | None = Field(default=None, description="What failed; null if nothing did.")

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        """Raise ValueError unless there is one value for each example."""
        control = self.control.scores if self.control else {}
        told = [self.verdict.per_example, self.found, self.data.examples, self.data.label_names]
        for values in (*self.scores.values(), *control.values(), *told):
            if len(values) not in (0, self.batch_size):
                raise ValueError(f"{self.batch_size} values, one for each example")
        if self.failed and self.failure is None:
            raise ValueError("a failure, as its status is 'failed'")
        return self

    @property
    def inapplicable(self) -> bool:
        """Whether the attack could not be run here at all."""
        return self.status == "inapplicable"

    @property
    def failed(self) -> bool:
        """Whether an exception ended the audit before there was a reconstruction to score."""
        return self.status == "failed"

    @property
    def silent(self) -> bool:
        """Whether every entry of the update was zero, so that there was nothing to attack."""
        return self.status == "no signal"

    @property
    def ran(self) -> bool:
        """Whether there is a reconstruction to look at."""
        return not (self.inapplicable or self.failed or self.silent)

    def values(self, metric: str) -> tuple[float | None, ...]:
        """Return a metric of each example, with infinity for a PSNR at its cap. Return () if it was not measured."""
        return _uncapped(metric, self.scores.get(metric, ()))

    def blind_values(self, metric: str) -> tuple[float | None, ...]:
        """Return the same of the blind control."""
        return _uncapped(metric, self.control.scores.get(metric, ()) if self.control else ())


def _uncapped(metric: str, values: tuple[float | None, ...]) -> tuple[float | None, ...]:
    """Return the values with infinity for each PSNR at its cap."""
    if metric != "psnr":
        return values
    return tuple(math.inf if v is not None and v >= PSNR_CAP else v for v in values)
