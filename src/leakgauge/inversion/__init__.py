"""Gradient matching as a composition: objective, parametrization, labels, descent, trials."""

from leakgauge.inversion.consensus import Consensus
from leakgauge.inversion.descent import Descent, SignedAdam
from leakgauge.inversion.distances import L1, L2, BalancedL2, Cosine, LayerNorms, TensorCosine
from leakgauge.inversion.engine import GradientMatching
from leakgauge.inversion.features import FeatureMatch
from leakgauge.inversion.gauss_newton import GaussNewton
from leakgauge.inversion.labels import Affine, Joint, Known, Labels, LastLayer, Read
from leakgauge.inversion.langevin import LangevinAdam
from leakgauge.inversion.lbfgs import LBFGS
from leakgauge.inversion.objective import Candidate, Falling, LeastSquares, Logarithm, Term, Window
from leakgauge.inversion.parametrization import Direct, Guessed, Spectral
from leakgauge.inversion.priors import Energy, InRange, Smoothness, TotalVariation
from leakgauge.inversion.statistics import BatchStatistics

__all__ = [
    "L1",
    "L2",
    "LBFGS",
    "Affine",
    "BalancedL2",
    "BatchStatistics",
    "Candidate",
    "Consensus",
    "Cosine",
    "Descent",
    "Direct",
    "Energy",
    "Falling",
    "FeatureMatch",
    "GaussNewton",
    "GradientMatching",
    "Guessed",
    "InRange",
    "Joint",
    "Known",
    "Labels",
    "LangevinAdam",
    "LastLayer",
    "LayerNorms",
    "LeastSquares",
    "Logarithm",
    "Read",
    "SignedAdam",
    "Smoothness",
    "Spectral",
    "TensorCosine",
    "Term",
    "TotalVariation",
    "Window",
]
