"""Local training: one gradient, local steps, several rounds, and views of those.

A specification knows what is exported here, by its name in lower case: `fedavg` is `FedAvg`.
"""

from leakgauge.federated.training.fedavg import FedAvg
from leakgauge.federated.training.fedsgd import FedSGD

__all__ = ["FedAvg", "FedSGD"]
