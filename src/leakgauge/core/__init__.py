"""What travels between rooms, and the errors. Imports nothing else of ours."""

from leakgauge.core.configuration import Configured
from leakgauge.core.domain import Column, Domain, ImageDomain, TableDomain
from leakgauge.core.errors import (
    DataError,
    Impossible,
    KnowledgeError,
    LeakGaugeError,
    ModelError,
    NotSupportedYet,
    OutputError,
    SpecificationError,
    UpdateError,
    UserError,
)
from leakgauge.core.observation import Knowledge, Observation, check_knowledge
from leakgauge.core.protocols import (
    AddsNoise,
    Attack,
    Defense,
    LocalSteps,
    LocalTraining,
    Loss,
    Progress,
    Shuffled,
    SingleGradient,
    silent,
)
from leakgauge.core.reconstruction import Cost, Diagnosis, Reconstruction, Snapshot, Status
from leakgauge.core.seeds import Seeds
from leakgauge.core.update import Tensors, Update, UpdateKind, trainable

__all__ = [
    "AddsNoise",
    "Attack",
    "Column",
    "Configured",
    "Cost",
    "DataError",
    "Defense",
    "Diagnosis",
    "Domain",
    "ImageDomain",
    "Impossible",
    "Knowledge",
    "KnowledgeError",
    "LeakGaugeError",
    "LocalSteps",
    "LocalTraining",
    "Loss",
    "ModelError",
    "NotSupportedYet",
    "Observation",
    "OutputError",
    "Progress",
    "Reconstruction",
    "Seeds",
    "Shuffled",
    "SingleGradient",
    "Snapshot",
    "SpecificationError",
    "Status",
    "TableDomain",
    "Tensors",
    "Update",
    "UpdateError",
    "UpdateKind",
    "UserError",
    "check_knowledge",
    "silent",
    "trainable",
]
