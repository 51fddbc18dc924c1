"""Networks whose counts `inspection.py` compares with measurements, and examples of the shapes that they take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

import leakgauge as lg

COLOR = lg.ImageDomain(3, 32, 32)


@dataclass(frozen=True)
class Subject:
    """A network to inspect.

    Args:
        build: Makes the network.
        shape: Shape of one example.
        train: Whether it is in train mode.
    """

    build: Callable[[], nn.Module]
    shape: tuple[int, ...] = (3, 32, 32)
    train: bool = False

    def model(self, seed: int) -> nn.Module:
        """Return the network with weights from a seed, in float64."""
        with lg.Seeds(seed).isolated("weights"):
            return self.build().double().train(self.train)


def ours(name: str, **options: Any) -> Callable[[], nn.Module]:
    """Return the maker of a reference network for color images."""
    return lambda: lg.models.build(getattr(lg.models, name), COLOR, 10, **options)


def block(
    inputs: int, outputs: int, norm: bool, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """Return a 3x3 convolution with ReLU, and BatchNorm if asked."""
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, stride=stride, groups=groups)
    return [conv, *([nn.BatchNorm2d(outputs)] if norm else []), nn.ReLU()]


def vgg(norm: bool) -> nn.Module:
    """Return VGG-11 for 32 x 32 pixels, with one linear layer."""
    layers, inputs = list[nn.Module](), 3
    for width in (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512):
        if width:
            layers += block(inputs, width, norm)
            inputs = width
        else:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


class Dense(nn.Module):
    """A convolution whose output is appended to its input."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, growth, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C + growth, H, W)."""
        return torch.cat([x, self.conv(self.norm(x).relu())], dim=1)


def densenet() -> nn.Module:
    """Return a small DenseNet: three stages of three layers, with growth 24."""
    layers, width = list[nn.Module]([nn.Conv2d(3, 24, 3, padding=1)]), 24
    for stage in range(3):
        for _ in range(3):
            layers.append(Dense(width, 24))
            width += 24
        if stage < 2:
            half = width // 2
            layers += [nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, half, 1), nn.AvgPool2d(2)]
            width = half
    end = [nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    return nn.Sequential(*layers, *end, nn.Linear(4 * width, 10))


def grouped(groups: int) -> nn.Module:
    """Return four strided convolutions. Those behind the first have groups."""
    layers = block(3, 64, True, stride=2)
    for width in (128, 256, 256):
        layers += block(
            width // (2 if width < 256 or len(layers) < 7 else 1), width, True, 2, groups
        )
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(1024, 10))


def stem() -> nn.Module:
    """Return a ResNet-18 with the stem for ImageNet: stride 2 and a max pool."""
    model = lg.models.build(lg.models.resnet18, lg.ImageDomain(3, 64, 64), 10)
    first = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
    model.conv1 = nn.Sequential(first, nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
    return model


def signals() -> nn.Module:
    """Return a network for signals: convolutions along one axis."""
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((3, 32, 2), (32, 64, 2), (64, 128, 2), (128, 128, 1)):
        layers += [nn.Conv1d(inputs, outputs, 5, padding=2, stride=stride), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(128, 10))


def volumes() -> nn.Module:
    """Return a network for volumes: convolutions along three axes."""
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((1, 32, 1), (32, 64, 2), (64, 128, 2), (128, 128, 1)):
        conv = nn.Conv3d(inputs, outputs, 3, padding=1, stride=stride)
        layers += [conv, nn.BatchNorm3d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(128, 10))


SUBJECTS = {
    "ResNet-18": Subject(ours("resnet18")),
    "ResNet-18, train mode": Subject(ours("resnet18"), train=True),
    "ResNet-18, ImageNet stem": Subject(stem, (3, 64, 64)),
    "ResNet-20": Subject(ours("resnet20")),
    "ResNet-32": Subject(ours("resnet32")),
    "ResNet-56": Subject(ours("resnet56")),
    "VGG-11": Subject(lambda: vgg(norm=False)),
    "VGG-11, BatchNorm": Subject(lambda: vgg(norm=True)),
    "ConvNet, width 64": Subject(ours("convnet")),
    "DenseNet": Subject(densenet),
    "LeNet": Subject(ours("lenet")),
    "LeNet, ReLU": Subject(ours("lenet", activation="relu")),
    "CNN6": Subject(ours("cnn6")),
    "FedAvg CNN": Subject(ours("fedavg_cnn")),
    "strided CNN": Subject(lambda: grouped(1)),
    "strided CNN, 4 groups": Subject(lambda: grouped(4)),
    "MLP": Subject(ours("mlp")),
    "ViT": Subject(ours("vit")),
    "1-D CNN": Subject(signals, (3, 128)),
    "3-D CNN": Subject(volumes, (1, 8, 8, 8)),
}


def examples(images: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return examples (B, `*shape`) made from images (B, 3, H, W), in float64.

    A signal is four lines of pixels. A volume is eight neighboring crops.
    """
    images = images.double()
    if len(shape) == 2:
        return images[:, :, 14:18].flatten(2)
    if len(shape) == 4:
        gray = images.mean(1, keepdim=True)
        crops = [gray[..., 8 + 2 * i : 16 + 2 * i, 8:16] for i in range(shape[1])]
        return torch.stack(crops, dim=2)
    return interpolate(images, size=shape[1:], mode="bilinear", antialias=True)
