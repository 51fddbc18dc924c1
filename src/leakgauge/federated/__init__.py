"""Local training, clients and protocols."""

from leakgauge.federated.client import Batch, Client
from leakgauge.federated.training import FedSGD

__all__ = ["Batch", "Client", "FedSGD"]
