"""One cell: one attack on one update, its scores beside those of the blind control, and the verdict."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from leakgauge.records.parts import Cost, Defense, Failure, Network, Protocol
from leakgauge.records.sentences import Sentences
from leakgauge.records.values import Count, Many, Measurement, Name, Part, Text

PSNR_CAP = 200.0
"""Largest PSNR in records, in dB. An exact copy gets this value, since its PSNR is infinite."""
MOST_EXAMPLES = 10**6
"""Largest batch size of a record. The report has an entry for each example."""
MOST_DECIMALS = 12
"""Most decimals of a table's column. More decimals exceed the precision of float32."""
Scores = dict[Name, Many[Measurement]]
"""Metrics by name, one value for each example."""
Ended = Literal[
    "certified", "converged", "unconverged", "diverged", "inapplicable", "no signal", "failed"
]
"""How an attack ended: the values of `Status`."""


class Column(Part):
    """One column of a private table."""

    name: Text = Field(description="Name of the column.")
    unit: Text = Field(description="Unit of its values. May be empty.")
    low: Annotated[float, Field(ge=-1e100, le=1e100)] = Field(
        description="Lower end of its public range, in the column's unit."
    )
    high: Annotated[float, Field(ge=-1e100, le=1e100)] = Field(
        description="Upper end of its public range, in the column's unit."
    )
    decimals: int = Field(
        ge=0, le=MOST_DECIMALS, description="Number of decimals that a report shows."
    )
    tolerance: Annotated[float, Field(ge=0, le=1e100)] = Field(
        description="Largest distance from the truth at which a value counts as reconstructed, in the column's unit."
    )


class Headline(Part):
    """The score that stands for leakage of this kind of data, and how reports write it."""

    metric: Name = Field(description="Name of the metric. It is a key of `scores`.")
    heading: Text = Field(description="Short name of the score, for the head of a narrow column.")
    title: Text = Field(description="Name of the score with its unit, for an axis.")
    unit: Text = Field(description="Unit of a difference between two values.")
    format: Literal["decibels", "percent", "number"] = Field(
        description='How a value is written: "decibels" as 31.2 dB, "percent" as 67% (of a fraction in [0, 1]), '
        '"number" as 31.2.'
    )
    better: Literal["higher", "lower"] = Field(
        description="Whether higher or lower values leak more."
    )
    reads: Text = Field(description="Words for a value. `{score}` stands for the value.")
    reads_exactly: Text = Field(
        description="Words for an exact copy: a PSNR at its cap, or 0 if lower values leak more."
    )

    def leakage(self, score: float) -> float:
        """Return a number that is larger for more leakage: the score, or its negative if lower values leak more."""
        return score if self.better == "higher" else -score

    def exact(self, score: float) -> bool:
        """Return whether a score means an exact copy."""
        return score == math.inf if self.better == "higher" else score <= 0

    def ahead(self, score: float | None, control: float | None) -> float:
        """Return how much more a score leaks than the control's, or 0 if it does not, or if one is missing."""
        if score is None or control is None or self.leakage(score) <= self.leakage(control):
            return 0.0
        return self.leakage(score) - self.leakage(control)


class Data(Part):
    """The private examples."""

    name: Text = Field(description="Name of the data set.")
    kind: Text = Field(
        description='Kind of data: "image", "table", "text" or the kind of a user\'s own domain.'
    )
    licence: Text = Field(description="Licence of the data set. May be empty.")
    examples: Many[Count] = Field(
        description="Index of each example of the batch in the data set. Empty if no batch was drawn."
    )
    labels: Many[int] | None = Field(
        description="Class index of each example. Null if the targets are not classes, or if no batch was drawn."
    )
    label_names: Many[Text] = Field(
        description="Target of each example as text: the name of its class if classes have names."
    )
    columns: Many[Column] | None = Field(description="Columns of a table. Null for other data.")
    headline: Headline = Field(
        description="The score that stands for leakage of this kind of data, and how reports write it."
    )
    layout: Literal["pictures", "rows", "sentences"] = Field(
        description='How a report shows an example: "pictures" from `images`, "rows" of a table from `rows`, or '
        '"sentences" from `sentences`.'
    )


class Attack(Part):
    """The attack."""

    name: Name = Field(
        description="Name of the attack in a specification. The name of an attack inside it follows in brackets."
    )
    repr: Text = Field(
        description="Exact configuration of the attack. Its random draws depend on this text."
    )


class Threat(Part):
    """The adversary, and what it knows."""

    name: Text = Field(description="Name of the threat model.")
    grants: Many[Text] = Field(description="Names of the knowledge that it grants, sorted.")
    always: Many[Text] = Field(description="What every adversary has.")


class Control(Part):
    """The blind control: the same attack on an update that holds nothing of this batch."""

    kind: Text = Field(
        description="Words for the examples on which the control's update was computed."
    )
    scores: Scores = Field(description="Like `scores` of the cell. Empty if the control failed.")
    status: Ended = Field(description="How the control ended.")
    message: Text = Field(description="What the attack reports about its result. May be empty.")


class Moment(Part):
    """One snapshot along an attack."""

    evaluations: Count = Field(description="Number of simulated updates so far.")
    objective: Measurement = Field(description="The attacker's objective, without a unit.")
    psnr: Measurement = Field(
        description="Median PSNR over the examples, in dB. The attacker does not see it."
    )
    image: Text | None = Field(
        description="Path of a picture with the examples side by side. Null for other data."
    )


class Sides(Part):
    """Pictures: one path for each example, relative to the folder of the run."""

    original: Many[Text] = Field(description="The private examples.")
    reconstruction: Many[Text] = Field(description="The reconstructions by the adversary.")
    control: Many[Text] = Field(
        description="The reconstructions by the blind control, from another update. Empty if the control failed."
    )


Values = Many[Many[Measurement]]
"""One row for each example, with one value for each column."""


class Rows(Part):
    """Rows of a table: for each example one value for each column, in the column's unit."""

    original: Values = Field(description="The private examples.")
    reconstruction: Values = Field(description="The reconstructions by the adversary.")
    control: Values = Field(
        description="The reconstructions by the blind control, from another update. Empty if the control failed."
    )


class Verdict(Part):
    """Whether the batch leaked, by a named rule. The audit judges once, and readers do not judge again."""

    rule: Name | None = Field(
        description="Name of the rule. The header holds its text. Null if this kind of data has no rule."
    )
    leaks: bool | None = Field(
        description="Whether at least one example leaked. Null if no example could be judged."
    )
    per_example: Many[bool | None] = Field(
        description="Whether each example leaked. Null for an example that could not be judged. Empty if the attack "
        "did not run."
    )
    floor: Measurement = Field(
        description="Headline score from which a leak counts: the smallest one, or the largest one if lower values "
        "leak more. Null without a rule. An example with a worse score can leak by another score that "
        "the rule names. `why` then says which one."
    )
    margin: Measurement = Field(
        description="Distance by which the headline score must beat the blind control's. Null if any distance is "
        "enough."
    )
    why: Text = Field(
        description="What was counted, or why no example was judged. If the rule names several scores, it says which "
        "one decided. Examples are numbered from 1."
    )

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        """Raise ValueError unless `leaks` follows from `per_example`."""
        judged = [leaked for leaked in self.per_example if leaked is not None]
        if self.leaks is not (any(judged) if judged else None):
            raise ValueError("a value of `leaks` that follows from `per_example`")
        return self


class Described(Part):
    """The facts of a cell that are known before the attack runs."""

    type: Literal["cell"] = Field(default="cell", description="Kind of the record.")
    index: Count = Field(
        description="Place of the cell in the plan, from 0. Lines stand in the order in which cells finished."
    )
    id: Name = Field(description="Name of the cell, unique in its run.")
    case: Name = Field(description="Name of the case.")
    seed: int = Field(ge=0, description="The root seed.")
    batch_size: int = Field(
        ge=1, le=MOST_EXAMPLES, description="Number of private examples in the batch, B."
    )
    repeat: Count = Field(description="Number of the batch among those of this size, from 0.")
    data: Data = Field(description="The private examples.")
    model: Network = Field(description="The model.")
    protocol: Protocol = Field(description="The local training of the client.")
    defense: Defense = Field(description="The defense of the client.")
    attack: Attack = Field(description="The attack.")
    threat: Threat = Field(description="The adversary, and what it knows.")

    @property
    def undefended(self) -> bool:
        """Whether the client shared the update without a defense."""
        return self.defense.name == "none"


class Cell(Described):
    """One audit: one attack on one update. Scores and pictures have one value for each example."""

    status: Ended = Field(description="How the attack ended.")
    message: Text = Field(
        default="",
        description="What the attack reports about its result, or why it could not run. May be empty.",
    )
    notes: Many[Text] = Field(
        default=(), description="Facts that a reader of the result should know."
    )
    verdict: Verdict = Field(description="Whether the batch leaked, by a named rule.")
    scores: Scores = Field(
        default={},
        description="Metrics of the reconstruction by name, one value for each example. A PSNR is capped at 200 dB, "
        "which means an exact copy. Empty if the attack did not run.",
    )
    control: Control | None = Field(
        default=None, description="The blind control. Null if the attack did not run."
    )
    found: Many[bool] = Field(
        default=(),
        description="Whether the attack reconstructed each example. Empty if it did not run.",
    )
    residual: Measurement = Field(
        default=None,
        description="Distance between the reconstruction's simulated update and the observed update, as a fraction "
        "of the norm of the observed one. Null if it is not known.",
    )
    objectives: Many[Measurement] = Field(
        default=(), description="Final objective of each restart, the attacker's own."
    )
    restart: Count = Field(default=0, description="Index of the chosen restart, from 0.")
    perceptual: Text | None = Field(
        default=None,
        description="Name of the network that compared images, or of the package that compared texts, or the reason "
        "why there was none. Null for other data.",
    )
    candidates: Count | None = Field(
        default=None,
        description="Number of images among which a reconstruction had to identify its original. Null if there was no "
        "identification test.",
    )
    trajectory: Many[Moment] = Field(
        default=(), description="Snapshots along the attack, first to last."
    )
    images: Sides | None = Field(
        default=None, description="Pictures of the examples. Null for other data."
    )
    rows: Rows | None = Field(default=None, description="Rows of a table. Null for other data.")
    sentences: Sentences | None = Field(
        default=None, description="Sentences of text. Null for other data."
    )
    cost: Cost = Field(default=Cost(), description="What the attack spent.")
    control_cost: Cost = Field(default=Cost(), description="What the blind control spent.")
    failure: Failure | None = Field(
        default=None, description="What failed. Null if nothing failed."
    )

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        """Raise ValueError unless each list has one value for each example, and a failed cell says what failed."""
        control = self.control.scores if self.control else {}
        lists = [self.verdict.per_example, self.found, self.data.examples, self.data.label_names]
        for values in (*self.scores.values(), *control.values(), *lists):
            if len(values) not in (0, self.batch_size):
                raise ValueError(f"{self.batch_size} values, one for each example")
        if self.failed and self.failure is None:
            raise ValueError("a failure, since its status is 'failed'")
        return self

    @property
    def inapplicable(self) -> bool:
        """Whether the attack could not run here."""
        return self.status == "inapplicable"

    @property
    def failed(self) -> bool:
        """Whether an exception ended the audit before a reconstruction could be scored."""
        return self.status == "failed"

    @property
    def silent(self) -> bool:
        """Whether every entry of the update was zero, so there was nothing to attack."""
        return self.status == "no signal"

    @property
    def ran(self) -> bool:
        """Whether the attack ran and gave a reconstruction."""
        return not (self.inapplicable or self.failed or self.silent)

    def values(self, metric: str) -> tuple[float | None, ...]:
        """Return the metric of each example, with infinity for a PSNR at its cap, or () if it was not measured."""
        return _uncapped(metric, self.scores.get(metric, ()))

    def blind_values(self, metric: str) -> tuple[float | None, ...]:
        """Return the metric of each example of the blind control, in the same form as `values`."""
        return _uncapped(metric, self.control.scores.get(metric, ()) if self.control else ())


def _uncapped(metric: str, values: tuple[float | None, ...]) -> tuple[float | None, ...]:
    """Return the values, with infinity for each PSNR at its cap."""
    if metric != "psnr":
        return values
    return tuple(math.inf if v is not None and v >= PSNR_CAP else v for v in values)
