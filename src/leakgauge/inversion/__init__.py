"""Gradient matching as a composition: objective, parametrization, labels, descent, trials."""

from leakgauge.inversion.descent import LBFGS, Descent, SignedAdam
from leakgauge.inversion.distances import L2, BalancedL2, Cosine
from leakgauge.inversion.engine import GradientMatching
from leakgauge.inversion.labels import Joint, Known, Labels, LastLayer
from leakgauge.inversion.objective import Candidate, Term
from leakgauge.inversion.parametrization import Direct
from leakgauge.inversion.priors import TotalVariation

__all__ = [
    "L2",
    "LBFGS",
    "BalancedL2",
    "Candidate",
    "Cosine",
    "Descent",
    "Direct",
    "GradientMatching",
    "Joint",
    "Known",
    "Labels",
    "LastLayer",
    "SignedAdam",
    "Term",
    "TotalVariation",
]
