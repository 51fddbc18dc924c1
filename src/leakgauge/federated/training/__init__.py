"""Local training: one gradient, local steps, or several rounds, and simpler views of them.

A specification names the classes that are exported here in lower case: `fedavg` is `FedAvg`.
"""

from leakgauge.federated.training.fedavg import FedAvg
from leakgauge.federated.training.fedsgd import FedSGD

__all__ = ["FedAvg", "FedSGD"]
