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
from leakgauge.threats import (
    Aggregator,
    MaskedUpdate,
    Neighbor,
    SecureAggregator,
    Server,
    SeveralRounds,
    ThreatModel,
)

__version__ = version("leakgauge")

__all__ = [
    "Aggregator",
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
    "MaskedUpdate",
    "ModelError",
    "Neighbor",
    "NotSupportedYet",
    "Observation",
    "OutputError",
    "Reconstruction",
    "Run",
    "SecureAggregator",
    "Seeds",
    "Server",
    "SeveralRounds",
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
