"""Local training, clients and protocols."""

from leakgauge.federated.aggregation import Aggregation, Sum, WeightedMean
from leakgauge.federated.client import Batch, Client
from leakgauge.federated.fedavg import FedAvg
from leakgauge.federated.group import Group
from leakgauge.federated.homomorphic import CKKS, HomomorphicEncryption
from leakgauge.federated.secure_aggregation import SecureAggregation
from leakgauge.federated.training import FedSGD

__all__ = [
    "CKKS",
    "Aggregation",
    "Batch",
    "Client",
    "FedAvg",
    "FedSGD",
    "Group",
    "HomomorphicEncryption",
    "SecureAggregation",
    "Sum",
    "WeightedMean",
]
