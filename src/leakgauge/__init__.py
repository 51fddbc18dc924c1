"""LeakGauge measures how much private training data leaks from shared gradients and updates."""

from importlib.metadata import version

from leakgauge import attacks, data, defenses, inversion, metrics, models
from leakgauge.audit import Case, Run, audit
from leakgauge.core import (
    Attack,
    Column,
    DataError,
    Defense,
    Domain,
    ImageDomain,
    Impossible,
    Knowledge,
    KnowledgeError,
    LeakGaugeError,
    LocalTraining,
    ModelError,
    NotSupportedYet,
    Observation,
    OutputError,
    Reconstruction,
    Seeds,
    SpecificationError,
    Status,
    TableDomain,
    Update,
    UpdateError,
    UserError,
)
from leakgauge.data import Dataset
from leakgauge.federated import Batch, Client, FedAvg, FedSGD
from leakgauge.report import write as write_report
from leakgauge.threats import Server, ThreatModel

__version__ = version("leakgauge")

__all__ = [
    "Attack",
    "Batch",
    "Case",
    "Client",
    "Column",
    "DataError",
    "Dataset",
    "Defense",
    "Domain",
    "FedAvg",
    "FedSGD",
    "ImageDomain",
    "Impossible",
    "Knowledge",
    "KnowledgeError",
    "LeakGaugeError",
    "LocalTraining",
    "ModelError",
    "NotSupportedYet",
    "Observation",
    "OutputError",
    "Reconstruction",
    "Run",
    "Seeds",
    "Server",
    "SpecificationError",
    "Status",
    "TableDomain",
    "ThreatModel",
    "Update",
    "UpdateError",
    "UserError",
    "attacks",
    "audit",
    "data",
    "defenses",
    "inversion",
    "metrics",
    "models",
    "write_report",
]
