"""Defenses, by name. A specification's `name = "gaussian_noise"` is `GaussianNoise` here."""

from leakgauge.defenses.activation import Activation
from leakgauge.defenses.ats import ATS
from leakgauge.defenses.base import Undefended
from leakgauge.defenses.chain import Chain
from leakgauge.defenses.clipping import Clipping
from leakgauge.defenses.dcs2 import DCS2
from leakgauge.defenses.dgc import DGC
from leakgauge.defenses.dp_fedavg import DPFedAvg
from leakgauge.defenses.dpsgd import DPSGD
from leakgauge.defenses.dropout import Dropout
from leakgauge.defenses.gaussian_noise import GaussianNoise
from leakgauge.defenses.input_dropout import PatchDropout, PixelDropout
from leakgauge.defenses.instahide import InstaHide
from leakgauge.defenses.laplacian_noise import LaplacianNoise
from leakgauge.defenses.layer_pruning import LayerPruning
from leakgauge.defenses.local_layers import LocalLayers
from leakgauge.defenses.mixup import Mixup
from leakgauge.defenses.outpost import Outpost
from leakgauge.defenses.precode import Precode
from leakgauge.defenses.quantization import Quantization
from leakgauge.defenses.random_sparsification import RandomSparsification
from leakgauge.defenses.sign import Sign
from leakgauge.defenses.soteria import Soteria
from leakgauge.defenses.stochastic_quantization import StochasticQuantization
from leakgauge.defenses.top_k import TopK

__all__ = [
    "ATS",
    "DCS2",
    "DGC",
    "DPSGD",
    "Activation",
    "Chain",
    "Clipping",
    "DPFedAvg",
    "Dropout",
    "GaussianNoise",
    "InstaHide",
    "LaplacianNoise",
    "LayerPruning",
    "LocalLayers",
    "Mixup",
    "Outpost",
    "PatchDropout",
    "PixelDropout",
    "Precode",
    "Quantization",
    "RandomSparsification",
    "Sign",
    "Soteria",
    "StochasticQuantization",
    "TopK",
    "Undefended",
]
