"""The first line of a run: what repeats it, to the bit on the same machine and library builds."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field

from leakgauge.records.values import Count, Many, Name, Part, Text

SCHEMA_VERSION: Final = 3
"""Version of the record schema. A file of another version is refused."""


class Rule(Part):
    """A convention by which an example counts as leaked."""

    name: Name = Field(description="Its name, to which verdicts refer.")
    text: Text = Field(description="What it says, for a reader.")


class Versions(Part):
    """Versions of what computed the run."""

    leakgauge: Text = Field(description="Of LeakGauge.")
    torch: Text = Field(description="Of PyTorch.")
    numpy: Text = Field(description="Of NumPy.")
    python: Text = Field(description="Of Python.")


class Threads(Part):
    """Threads of one process."""

    each_cell: Count = Field(description="Threads that compute one cell.")
    interop: Count = Field(description="Threads between operators.")


class Machine(Part):
    """What the last bits of a result depend on."""

    system: Text = Field(description="Operating system and architecture.")
    processor: Text = Field(description="Name of the processor.")
    instructions: Text = Field(description="Instruction set that PyTorch chose.")
    cores: Count = Field(description="Processors that the run was allowed to use.")
    device: Text = Field(description='Where attacks were computed: "cpu".')
    workers: Count = Field(
        description="Processes that ran cells. It differs between two runs of one seed that agree in all else."
    )
    threads: Threads = Field(description="Threads of each process.")
    libraries: dict[Text, Text] = Field(description="Versions of the libraries of arithmetic.")
    environment: dict[Text, Text] = Field(
        description="Environment variables that were set and choose instructions or threads."
    )


class Header(Part):
    """A whole run, before anything of it is computed. It is the first line."""

    type: Literal["header"] = Field(default="header", description="Tells the lines apart.")
    schema_version: Literal[3] = Field(
        default=SCHEMA_VERSION, description="Version of this schema."
    )
    specification: Text | None = Field(
        description="The specification in TOML; null for an audit that was built from objects."
    )
    settings: Many[Text] = Field(description="What `--set` changed in it, as `section.key=value`.")
    seed: int = Field(ge=0, description="The root seed.")
    command: Text = Field(description="The command that was run.")
    versions: Versions = Field(description="Versions of what computed the run.")
    machine: Machine = Field(description="What the last bits of a result depend on.")
    started: Text = Field(
        description="When the run began, in ISO 8601 (UTC). It differs between two runs."
    )
    planned: Count = Field(description="Cells that were planned.")
    trainings_planned: Count = Field(description="Trainings that were planned.")
    rules: Many[Rule] = Field(description="The rules that verdicts name.")
