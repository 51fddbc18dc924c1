"""What a defense costs: federated training with and without it, its accuracy and its traffic."""

from leakgauge.utility.federation import Federation, History
from leakgauge.utility.partition import label_skew
from leakgauge.utility.traffic import sent_bytes

__all__ = ["Federation", "History", "label_skew", "sent_bytes"]
