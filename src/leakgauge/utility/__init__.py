"""The cost of a defense: the accuracy and the traffic of federated training with it and without it."""

from leakgauge.utility.federation import Federation, History
from leakgauge.utility.partition import label_skew
from leakgauge.utility.traffic import sent_bytes

__all__ = ["Federation", "History", "label_skew", "sent_bytes"]
