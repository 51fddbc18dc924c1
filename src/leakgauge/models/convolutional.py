"""Plain convolutional networks of the gradient inversion literature."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from leakgauge.core import Domain, ImageDomain, ModelError
from leakgauge.models import parts
from leakgauge.models.parts import Activation, counts, dropping, images, normalizer, seeded


class LeNet(nn.Module):
    """Three 5x5 convolutions of so many channels, strides 2, 2, 1, then, behind dropout, one linear layer."""

    def __init__(
        self,
        domain: ImageDomain,
        classes: int,
        *,
        channels: int = 12,
        activation: Activation = "sigmoid",
        init: float = 0.5,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        widths = (domain.channels, channels, channels, channels)
        layers: list[nn.Module] = []
        for i, stride in enumerate((2, 2, 1)):
            layers.append(nn.Conv2d(widths[i], widths[i + 1], 5, padding=2, stride=stride))
            layers.append(parts.activation(activation))
        self.features = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        # Each stride of 2 halves a side, rounding up.
        self.linear = nn.Linear(channels * -(-domain.height // 4) * -(-domain.width // 4), classes)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -init, init)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, C, H, W) in [0, 1]."""
        return cast(Tensor, self.linear(self.dropout(torch.flatten(self.features(x), 1))))


class ConvNet(nn.Sequential):
    """Eight 3x3 convolutions with BatchNorm and ReLU, two 3x3 max pools, one linear layer."""

    def __init__(
        self, domain: ImageDomain, classes: int, *, width: int = 64, normalize: nn.Module
    ) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict(normalize=normalize)
        channels = (domain.channels, *(width * m for m in (1, 2, 2, 4, 4, 4, 4, 4)))
        for i in range(8):
            layers[f"conv{i}"] = nn.Conv2d(channels[i], channels[i + 1], 3, padding=1)
            layers[f"bn{i}"] = nn.BatchNorm2d(channels[i + 1])
            layers[f"relu{i}"] = nn.ReLU()
            if i in (5, 7):
                layers[f"pool{i}"] = nn.MaxPool2d(3)
        # Each pool leaves a third of a side, rounding down.
        features = channels[-1] * (domain.height // 9) * (domain.width // 9)
        layers["flatten"] = nn.Flatten()
        layers["linear"] = nn.Linear(features, classes)
        super().__init__(layers)


class FedAvgCNN(nn.Sequential):
    """Two 5x5 convolutions with 2x2 max pools, a hidden linear layer, then, behind dropout, a linear layer."""

    def __init__(
        self,
        domain: ImageDomain,
        classes: int,
        *,
        channels: int = 32,
        width: int = 512,
        dropout: float = 0.0,
        normalize: nn.Module,
    ) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict(normalize=normalize)
        for i, (before, after) in enumerate(
            ((domain.channels, channels), (channels, 2 * channels))
        ):
            layers[f"conv{i}"] = nn.Conv2d(before, after, 5, padding=2)
            layers[f"relu{i}"] = nn.ReLU()
            layers[f"pool{i}"] = nn.MaxPool2d(2)
        layers["flatten"] = nn.Flatten()
        # Each pool leaves half of a side, rounding down.
        features = 2 * channels * (domain.height // 4) * (domain.width // 4)
        layers["linear0"] = nn.Linear(features, width)
        layers["relu2"] = nn.ReLU()
        if dropout:
            layers["dropout"] = nn.Dropout(dropout)
        layers["linear1"] = nn.Linear(width, classes)
        super().__init__(layers)


def lenet(
    domain: Domain,
    classes: int,
    *,
    channels: int = 12,
    activation: Activation = "sigmoid",
    init: float = 0.5,
    dropout: float = 0.0,
    seed: int = 0,
) -> nn.Module:
    """The LeNet of Deep Leakage from Gradients (Zhu et al. 2019), for images of any size. The paper has 12 channels.

    Every weight and bias is drawn from U(-init, init); `dropout` is the probability before the linear
    layer. In eval mode. Raises ModelError for a domain other than images, an unknown activation,
    options that are not positive, and a dropout that is no probability below 1.
    """
    image = images(domain, "lenet")
    counts("lenet", classes=classes, channels=channels)
    dropping("lenet", dropout)
    _check_init(init)
    with seeded(seed):
        return LeNet(
            image, classes, channels=channels, activation=activation, init=init, dropout=dropout
        ).eval()


def convnet(
    domain: Domain,
    classes: int,
    *,
    width: int = 64,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
) -> nn.Module:
    """The ConvNet of Inverting Gradients (Geiping et al. 2020). Width 64 is the paper's ConvNet64.

    mean and std: one for each channel, of the first layer's normalization (default: none).
    PyTorch's default initialization; in eval mode. Raises ModelError for a domain other than images
    of at least 9x9 pixels, and options that are not positive.
    """
    image = images(domain, "convnet", smallest=9)
    counts("convnet", classes=classes, width=width)
    with seeded(seed):
        normalize = normalizer(domain, mean, std)
        return ConvNet(image, classes, width=width, normalize=normalize).eval()


def fedavg_cnn(
    domain: Domain,
    classes: int,
    *,
    channels: int = 32,
    width: int = 512,
    dropout: float = 0.0,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
) -> nn.Module:
    """The CNN of Federated Averaging (McMahan et al. 2017). The paper has 32 and 64 channels, 512 hidden units.

    mean and std as in `convnet`; `dropout` is the probability before the last layer. PyTorch's default
    initialization; in eval mode. Raises ModelError for a domain other than images of at least 4x4
    pixels, options that are not positive, and a dropout that is no probability below 1.
    """
    image = images(domain, "fedavg_cnn", smallest=4)
    counts("fedavg_cnn", classes=classes, channels=channels, width=width)
    dropping("fedavg_cnn", dropout)
    with seeded(seed):
        normalize = normalizer(domain, mean, std)
        return FedAvgCNN(
            image, classes, channels=channels, width=width, dropout=dropout, normalize=normalize
        ).eval()


def _check_init(init: float) -> None:
    if not isinstance(init, int | float) or not 0 < init < math.inf:
        raise ModelError(
            "model 'lenet'",
            expected="a finite init above 0",
            found=repr(init),
            remedy="mend the option init (the paper's is 0.5)",
        )
