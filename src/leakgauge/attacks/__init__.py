"""All attacks. In a specification, `name = "inverting_gradients"` means `InvertingGradients`."""

from leakgauge.attacks.april import April, AprilMatching
from leakgauge.attacks.auto import Auto
from leakgauge.attacks.balanced_dlg import BalancedDLG
from leakgauge.attacks.bayes_optimal import BayesOptimal
from leakgauge.attacks.cocktail_party import CocktailParty
from leakgauge.attacks.concealment_matching import ConcealmentMatching
from leakgauge.attacks.corrected_surrogate import CorrectedSurrogate
from leakgauge.attacks.dager import DAGER
from leakgauge.attacks.deep_image_prior import DeepImagePrior
from leakgauge.attacks.dlg import DLG
from leakgauge.attacks.dropout_inversion import DropoutInversion
from leakgauge.attacks.entries import Entry as Entry
from leakgauge.attacks.entries import HasCurvature as HasCurvature
from leakgauge.attacks.entries import HasReLU as HasReLU
from leakgauge.attacks.feature_inversion import FeatureInversion
from leakgauge.attacks.grad_inversion import GradInversion
from leakgauge.attacks.gradvit import GradViT
from leakgauge.attacks.idlg import IDLG
from leakgauge.attacks.inpainting import Inpainting
from leakgauge.attacks.instahide_decoding import InstaHideDecoding
from leakgauge.attacks.inverting_gradients import InvertingGradients
from leakgauge.attacks.lamp import LAMP
from leakgauge.attacks.linear_layer import LinearLayer
from leakgauge.attacks.mixup_decoding import MixupDecoding
from leakgauge.attacks.one_gradient import OneGradient
from leakgauge.attacks.order_invariant import OrderInvariant
from leakgauge.attacks.peeling import Peeling
from leakgauge.attacks.rgap import RGAP
from leakgauge.attacks.second_order import SecondOrder
from leakgauge.attacks.shift_consistency import ShiftConsistency
from leakgauge.attacks.signal_matching import SignalMatching
from leakgauge.attacks.smoothed_matching import SmoothedMatching
from leakgauge.attacks.softmax_unmixing import SoftmaxUnmixing
from leakgauge.attacks.spear import Spear
from leakgauge.attacks.spear_plus_plus import SpearPlusPlus
from leakgauge.attacks.surrogate_model import SurrogateModel
from leakgauge.attacks.tag import TAG
from leakgauge.attacks.text_dlg import TextDLG
from leakgauge.attacks.tiger import TIGER
from leakgauge.attacks.token_bag import TokenBag
from leakgauge.attacks.transformation_inversion import TransformationInversion
from leakgauge.attacks.vanishing_prior import VanishingPrior

__all__ = [
    "DAGER",
    "DLG",
    "IDLG",
    "LAMP",
    "RGAP",
    "TAG",
    "TIGER",
    "April",
    "AprilMatching",
    "Auto",
    "BalancedDLG",
    "BayesOptimal",
    "CocktailParty",
    "ConcealmentMatching",
    "CorrectedSurrogate",
    "DeepImagePrior",
    "DropoutInversion",
    "FeatureInversion",
    "GradInversion",
    "GradViT",
    "Inpainting",
    "InstaHideDecoding",
    "InvertingGradients",
    "LinearLayer",
    "MixupDecoding",
    "OneGradient",
    "OrderInvariant",
    "Peeling",
    "SecondOrder",
    "ShiftConsistency",
    "SignalMatching",
    "SmoothedMatching",
    "SoftmaxUnmixing",
    "Spear",
    "SpearPlusPlus",
    "SurrogateModel",
    "TextDLG",
    "TokenBag",
    "TransformationInversion",
    "VanishingPrior",
]
