"""LeakGauge measures how much private training data leaks from shared gradients and updates."""

from leakgauge.interrupts import end_quietly, is_command

if is_command():
    # Ctrl-C must not show a traceback of the imports below, which take seconds.
    end_quietly()

from importlib.metadata import version

from leakgauge import attacks, data, defenses, inversion, metrics, models, utility
from leakgauge.audit import Case, Run, Utility, audit
from leakgauge.core import (
    Attack,
    AttackError,
    BaseAttack,
    Column,
    DataError,
    Defense,
    Domain,
    ImageDomain,
    Knowledge,
    KnowledgeError,
    LeakGaugeError,
    LocalTraining,
    ModelError,
    Observation,
    OutputError,
    OutputLost,
    ProbeError,
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
    EncryptedUpdate,
    HomomorphicAggregator,
    MaskedUpdate,
    Neighbor,
    Outsider,
    SecureAggregator,
    Server,
    SeveralRounds,
    ThreatModel,
)

__version__ = version("leakgauge")

__all__ = [
    "Aggregator",
    "Attack",
    "AttackError",
    "BaseAttack",
    "Batch",
    "Case",
    "Client",
    "Column",
    "DataError",
    "Dataset",
    "Defense",
    "Domain",
    "EncryptedUpdate",
    "FedAvg",
    "FedSGD",
    "HomomorphicAggregator",
    "ImageDomain",
    "Knowledge",
    "KnowledgeError",
    "LeakGaugeError",
    "LocalTraining",
    "MaskedUpdate",
    "ModelError",
    "Neighbor",
    "Observation",
    "OutputError",
    "OutputLost",
    "Outsider",
    "ProbeError",
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
    "Utility",
    "attacks",
    "audit",
    "data",
    "defenses",
    "inversion",
    "metrics",
    "models",
    "utility",
    "write_report",
]
