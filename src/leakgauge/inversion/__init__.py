"""Gradient matching as a composition of parts.

`GradientMatching` combines five parts into an attack:

- The objective is a sum of distances and priors, for example `Cosine() + 1e-2 * TotalVariation()`.
- The parametrization maps variables to examples, for example `Direct` or `Spectral`.
- The labels are fixed or optimized, for example `Known` or `Joint`.
- The descent lowers the objective, for example `SignedAdam`, `LBFGS` or `GaussNewton`.
- The restarts may be halved on the way, or held together by a `Consensus`.
"""

from leakgauge.inversion.descents.adam import Adam, MovingAdam
from leakgauge.inversion.descents.descent import Descent, SignedAdam
from leakgauge.inversion.descents.gauss_newton import GaussNewton
from leakgauge.inversion.descents.langevin import LangevinAdam
from leakgauge.inversion.descents.lbfgs import LBFGS
from leakgauge.inversion.objectives.distances import (
    L1,
    L2,
    BalancedL2,
    Cosine,
    LayerNorms,
    TensorCosine,
)
from leakgauge.inversion.objectives.feature_statistics import FeatureStatistics
from leakgauge.inversion.objectives.features import FeatureMatch
from leakgauge.inversion.objectives.objective import (
    Candidate,
    GeometricSchedule,
    LeastSquares,
    Logarithm,
    StepSchedule,
    Term,
    Window,
)
from leakgauge.inversion.objectives.patches import PatchBorders
from leakgauge.inversion.objectives.priors import Energy, InRange, Orthogonality, Smoothness
from leakgauge.inversion.objectives.rounding import RandomRounding
from leakgauge.inversion.objectives.sentences import EmbeddingNorm, LayerCosine, SpanDistance
from leakgauge.inversion.objectives.statistics import BatchStatistics
from leakgauge.inversion.objectives.variation import (
    VARIATIONS,
    ColorVariation,
    IsotropicVariation,
    TotalVariation,
    VariationName,
)
from leakgauge.inversion.search.consensus import Consensus
from leakgauge.inversion.search.engine import GradientMatching
from leakgauge.inversion.variables.deep_prior import DeepPrior
from leakgauge.inversion.variables.labels import (
    Affine,
    FixedLabels,
    Joint,
    Known,
    Labels,
    LastLayer,
)
from leakgauge.inversion.variables.parametrization import (
    Direct,
    Parametrization,
    Spectral,
    WarmStart,
)

__all__ = [
    "L1",
    "L2",
    "LBFGS",
    "VARIATIONS",
    "Adam",
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
    "EmbeddingNorm",
    "Energy",
    "FeatureMatch",
    "FeatureStatistics",
    "FixedLabels",
    "GaussNewton",
    "GeometricSchedule",
    "GradientMatching",
    "InRange",
    "IsotropicVariation",
    "Joint",
    "Known",
    "Labels",
    "LangevinAdam",
    "LastLayer",
    "LayerCosine",
    "LayerNorms",
    "LeastSquares",
    "Logarithm",
    "MovingAdam",
    "Orthogonality",
    "Parametrization",
    "PatchBorders",
    "RandomRounding",
    "SignedAdam",
    "Smoothness",
    "SpanDistance",
    "Spectral",
    "StepSchedule",
    "TensorCosine",
    "Term",
    "TotalVariation",
    "VariationName",
    "WarmStart",
    "Window",
]
