"""Federated learning: clients, their local training, and the aggregation of their updates."""

from leakgauge.federated.aggregation.homomorphic import CKKS, HomomorphicEncryption
from leakgauge.federated.aggregation.secure_aggregation import SecureAggregation
from leakgauge.federated.aggregation.sums import Aggregation, Sum, WeightedMean
from leakgauge.federated.clients.client import Batch, Client
from leakgauge.federated.clients.group import Group
from leakgauge.federated.training.fedavg import FedAvg
from leakgauge.federated.training.fedsgd import FedSGD

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
