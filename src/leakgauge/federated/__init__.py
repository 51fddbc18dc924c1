"""Local training, clients and protocols."""

from leakgauge.federated.client import Batch, Client
from leakgauge.federated.fedavg import FedAvg
from leakgauge.federated.training import FedSGD

__all__ = ["Batch", "Client", "FedAvg", "FedSGD"]
