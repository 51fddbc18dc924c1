"""The first line of a run: all that is needed to repeat it, exactly on the same machine and library builds."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field

from leakgauge.records.values import Count, Many, Name, Part, Text

SCHEMA_VERSION: Final = 3
"""Version of the record schema. A file of another version is refused."""


class Rule(Part):
    """A convention that says when an example counts as leaked."""

    name: Name = Field(description="Name of the rule. Verdicts refer to it.")
    text: Text = Field(description="The rule in words.")


class Versions(Part):
    """Versions of the software that computed the run."""

    leakgauge: Text = Field(description="Version of LeakGauge.")
    torch: Text = Field(description="Version of PyTorch.")
    numpy: Text = Field(description="Version of NumPy.")
    python: Text = Field(description="Version of Python.")


class Threads(Part):
    """Threads of one process."""

    each_cell: Count = Field(description="Number of threads that compute one cell.")
    interop: Count = Field(description="Number of threads between operators.")


class Machine(Part):
    """The machine. The last bits of a result depend on it."""

    system: Text = Field(description="Operating system and architecture.")
    processor: Text = Field(description="Name of the processor.")
    instructions: Text = Field(description="Instruction set that PyTorch chose.")
    cores: Count = Field(description="Number of processors that the run was allowed to use.")
    device: Text = Field(description='Device that computed the attacks: "cpu".')
    workers: Count = Field(
        description="Number of processes that ran cells. It may differ between two runs that agree in all other "
        "fields."
    )
    threads: Threads = Field(description="Threads of each process.")
    libraries: dict[Text, Text] = Field(description="Versions of the arithmetic libraries.")
    environment: dict[Text, Text] = Field(
        description="Environment variables that were set and that choose instructions or threads."
    )


class Inspected(Part):
    """What the model of a case gives away by counting, without any data or defense."""

    case: Text = Field(description="Name of the case.")
    verdict: Text = Field(description="The verdict in sentences, or why nothing was counted.")
    exact: Count | None = Field(
        description="Largest batch that is exact at some layer. Null if any batch is, or if nothing was counted."
    )


class Header(Part):
    """The settings of a whole run, before anything is computed. It is the first line."""

    type: Literal["header"] = Field(default="header", description="Kind of the record.")
    schema_version: Literal[3] = Field(
        default=SCHEMA_VERSION, description="Version of this schema."
    )
    specification: Text | None = Field(
        description="The specification in TOML. Null if the audit was built from objects."
    )
    settings: Many[Text] = Field(
        description="Options that `--set` changed in the specification, as `section.key=value`."
    )
    seed: int = Field(ge=0, description="The root seed.")
    command: Text = Field(description="The command that was run.")
    versions: Versions = Field(description="Versions of the software that computed the run.")
    machine: Machine = Field(description="The machine. The last bits of a result depend on it.")
    started: Text = Field(
        description="When the run began, in ISO 8601 (UTC). It differs between two runs."
    )
    planned: Count = Field(description="Number of cells that were planned.")
    trainings_planned: Count = Field(description="Number of trainings that were planned.")
    rules: Many[Rule] = Field(description="The rules to which verdicts refer.")
    inspected: Many[Inspected] = Field(
        default=(), description="What the models give away by counting, one for each case."
    )
