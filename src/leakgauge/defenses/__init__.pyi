"""Defenses, by name. A new one is its own file and one line here."""

from .activation import Activation as Activation
from .ats import ATS as ATS
from .base import Undefended as Undefended
from .chain import Chain as Chain
from .clipping import Clipping as Clipping
from .dcs2 import DCS2 as DCS2
from .dgc import DGC as DGC
from .dp_fedavg import DPFedAvg as DPFedAvg
from .dpsgd import DPSGD as DPSGD
from .dropout import Dropout as Dropout
from .gaussian_noise import GaussianNoise as GaussianNoise
from .input_dropout import PatchDropout as PatchDropout
from .input_dropout import PixelDropout as PixelDropout
from .instahide import InstaHide as InstaHide
from .laplacian_noise import LaplacianNoise as LaplacianNoise
from .layer_pruning import LayerPruning as LayerPruning
from .local_layers import LocalLayers as LocalLayers
from .mixup import Mixup as Mixup
from .outpost import Outpost as Outpost
from .precode import Precode as Precode
from .quantization import Quantization as Quantization
from .random_sparsification import RandomSparsification as RandomSparsification
from .sign import Sign as Sign
from .soteria import Soteria as Soteria
from .stochastic_quantization import StochasticQuantization as StochasticQuantization
from .top_k import TopK as TopK
