"""Defenses, by name. A specification's `name = "gaussian_noise"` is `GaussianNoise` here."""

from leakgauge.defenses.base import Undefended
from leakgauge.defenses.chain import Chain
from leakgauge.defenses.clipping import Clipping
from leakgauge.defenses.gaussian_noise import GaussianNoise
from leakgauge.defenses.instahide import InstaHide
from leakgauge.defenses.laplacian_noise import LaplacianNoise
from leakgauge.defenses.local_layers import LocalLayers
from leakgauge.defenses.mixup import Mixup
from leakgauge.defenses.precode import Precode
from leakgauge.defenses.quantization import Quantization
from leakgauge.defenses.random_sparsification import RandomSparsification
from leakgauge.defenses.top_k import TopK

__all__ = [
    "Chain",
    "Clipping",
    "GaussianNoise",
    "InstaHide",
    "LaplacianNoise",
    "LocalLayers",
    "Mixup",
    "Precode",
    "Quantization",
    "RandomSparsification",
    "TopK",
    "Undefended",
]
