"""Reference networks, and the construction of a user's own models.

A specification names a network by one of the names in BUILDERS. It names a user's own network as "package.module:name".

This package imports core, the look-up of files from data, and the networks of metrics.
"""

from leakgauge.models.building import build
from leakgauge.models.convolutional import ConvNet, FedAvgCNN, LeNet, convnet, fedavg_cnn, lenet
from leakgauge.models.hugging_face import Logits, hugging_face_vit
from leakgauge.models.hugging_face_text import hugging_face_text
from leakgauge.models.mlp import MLP, mlp
from leakgauge.models.parts import Normalize
from leakgauge.models.perceptual import fetch_lpips, has_lpips, lpips_squeeze
from leakgauge.models.resnet import ResNet, resnet18
from leakgauge.models.resnet_cifar import CifarResNet, resnet20, resnet32, resnet44, resnet56
from leakgauge.models.sequential import CNN, cnn, cnn6
from leakgauge.models.text_outputs import LanguageModel, TextClassifier, token_mean
from leakgauge.models.transformer import Transformer, transformer
from leakgauge.models.vit import ViT, vit
from leakgauge.models.weights import load_weights

BUILDERS = (
    "cnn",
    "cnn6",
    "convnet",
    "fedavg_cnn",
    "hugging_face_text",
    "hugging_face_vit",
    "lenet",
    "mlp",
    "resnet18",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "transformer",
    "vit",
)

__all__ = [
    "BUILDERS",
    "CNN",
    "MLP",
    "CifarResNet",
    "ConvNet",
    "FedAvgCNN",
    "LanguageModel",
    "LeNet",
    "Logits",
    "Normalize",
    "ResNet",
    "TextClassifier",
    "Transformer",
    "ViT",
    "build",
    "cnn",
    "cnn6",
    "convnet",
    "fedavg_cnn",
    "fetch_lpips",
    "has_lpips",
    "hugging_face_text",
    "hugging_face_vit",
    "lenet",
    "load_weights",
    "lpips_squeeze",
    "mlp",
    "resnet18",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "token_mean",
    "transformer",
    "vit",
]
