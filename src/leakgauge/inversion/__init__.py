"""Gradient matching as a composition: objective, parametrization, labels, descent, trials."""

from leakgauge.inversion.consensus import Consensus
from leakgauge.inversion.deep_prior import DeepPrior
from leakgauge.inversion.descent import Descent, SignedAdam
from leakgauge.inversion.distances import L1, L2, BalancedL2, Cosine, LayerNorms, TensorCosine
from leakgauge.inversion.engine import GradientMatching
from leakgauge.inversion.feature_statistics import FeatureStatistics
from leakgauge.inversion.features import FeatureMatch
from leakgauge.inversion.gauss_newton import GaussNewton
from leakgauge.inversion.labels import Affine, Joint, Known, Labels, LastLayer, Read
from leakgauge.inversion.langevin import LangevinAdam
from leakgauge.inversion.lbfgs import LBFGS
from leakgauge.inversion.objective import (
    Candidate,
    Falling,
    LeastSquares,
    Logarithm,
    Stepped,
    Term,
    Window,
)
from leakgauge.inversion.parametrization import Direct, Guessed, Parametrization, Spectral
from leakgauge.inversion.patches import PatchBorders
from leakgauge.inversion.priors import Energy, InRange, Orthogonality, Smoothness
from leakgauge.inversion.rounding import RandomRounding
from leakgauge.inversion.statistics import BatchStatistics
from leakgauge.inversion.variation import (
    VARIATIONS,
    ColorVariation,
    IsotropicVariation,
    TotalVariation,
    VariationName,
)

__all__ = [
    "L1",
    "L2",
    "LBFGS",
    "VARIATIONS",
    "Affine",
    "BalancedL2",
    "BatchStatistics",
    "Candidate",
    "ColorVariation",
    "Consensus",
    "Cosine",
    "DeepPrior",
    "Descent",
    "Direct",
    "Energy",
    "Falling",
    "FeatureMatch",
    "FeatureStatistics",
    "GaussNewton",
    "GradientMatching",
    "Guessed",
    "InRange",
    "IsotropicVariation",
    "Joint",
    "Known",
    "Labels",
    "LangevinAdam",
    "LastLayer",
    "LayerNorms",
    "LeastSquares",
    "Logarithm",
    "Orthogonality",
    "Parametrization",
    "PatchBorders",
    "RandomRounding",
    "Read",
    "SignedAdam",
    "Smoothness",
    "Spectral",
    "Stepped",
    "TensorCosine",
    "Term",
    "TotalVariation",
    "VariationName",
    "Window",
]
