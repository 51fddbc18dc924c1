"""Threat models: who attacks, and what the adversary knows. Only a threat model makes an `Observation`."""

from leakgauge.threats.aggregator import (
    Aggregator,
    EncryptedUpdate,
    HomomorphicAggregator,
    MaskedUpdate,
    SecureAggregator,
)
from leakgauge.threats.neighbor import Neighbor
from leakgauge.threats.outsider import Outsider
from leakgauge.threats.server import Server, ThreatModel, observed
from leakgauge.threats.several_rounds import SeveralRounds

__all__ = [
    "Aggregator",
    "EncryptedUpdate",
    "HomomorphicAggregator",
    "MaskedUpdate",
    "Neighbor",
    "Outsider",
    "SecureAggregator",
    "Server",
    "SeveralRounds",
    "ThreatModel",
    "observed",
]
