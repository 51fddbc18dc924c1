"""Plain convolutional networks from papers on gradient inversion and federated learning."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from leakgauge.core import Domain, ImageDomain, ModelError
from leakgauge.models import parts
from leakgauge.models.parts import (
    Activation,
    check_counts,
    check_dropout,
    normalizer,
    require_images,
    seeded,
)


class LeNet(nn.Module):
    """Three 5x5 convolutions with strides 2, 2 and 1, and one linear layer.

    Call `lenet` to build it from a seed.

    Args:
        domain: Domain of the images: channels, height and width.
        classes: Number of classes, at least 1.
        channels: Number of channels of each convolution.
        activation: "sigmoid", "relu", "tanh", "gelu" or "leaky_relu" (slope 0.2).
        init: All weights and biases are drawn uniformly from -init to init.
        dropout: Probability of dropout before the last layer, from 0 to below 1.

    References:
        Zhu, Liu, Han. Deep Leakage from Gradients. NeurIPS 2019. arXiv:1906.08935.

    Example:
        >>> import torch
        >>> import leakgauge as lg
        >>> from leakgauge.core import ImageDomain
        >>> model = lg.models.LeNet(ImageDomain(3, 32, 32), 10)
        >>> model(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 10])
    """

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
        # Each stride of 2 halves a side, rounded up.
        self.linear = nn.Linear(channels * -(-domain.height // 4) * -(-domain.width // 4), classes)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -init, init)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, classes) of images (B, C, H, W) in [0, 1]."""
        return cast(Tensor, self.linear(self.dropout(torch.flatten(self.features(x), 1))))


class ConvNet(nn.Sequential):
    """Eight 3x3 convolutions with BatchNorm and ReLU, two 3x3 max pools, and one linear layer.

    Call `convnet` to build it from a seed.

    Args:
        domain: Domain of the images: channels, height and width.
        classes: Number of classes, at least 1.
        width: Number of channels of the first convolution. The eight convolutions have 1, 2, 2, 4,
            4, 4, 4 and 4 times as many.
        normalize: First layer, a `Normalize` or the identity.

    References:
        Geiping, Bauermeister, Dröge, Moeller. Inverting Gradients: How Easy Is It to Break
        Privacy in Federated Learning? NeurIPS 2020. arXiv:2003.14053.

    Example:
        >>> import torch
        >>> import leakgauge as lg
        >>> from leakgauge.core import ImageDomain
        >>> model = lg.models.ConvNet(ImageDomain(3, 32, 32), 10, width=4, normalize=torch.nn.Identity()).eval()
        >>> model(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 10])
    """

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
        # Each pool reduces a side to a third, rounded down.
        features = channels[-1] * (domain.height // 9) * (domain.width // 9)
        layers["flatten"] = nn.Flatten()
        layers["linear"] = nn.Linear(features, classes)
        super().__init__(layers)


class FedAvgCNN(nn.Sequential):
    """Two 5x5 convolutions with 2x2 max pools, and two linear layers.

    Call `fedavg_cnn` to build it from a seed.

    Args:
        domain: Domain of the images: channels, height and width.
        classes: Number of classes, at least 1.
        channels: Number of channels of the first convolution. The second one has twice as many.
        width: Number of hidden units.
        dropout: Probability of dropout before the last layer, from 0 to below 1.
        normalize: First layer, a `Normalize` or the identity.

    References:
        McMahan, Moore, Ramage, Hampson, Agüera y Arcas. Communication-Efficient Learning of Deep
        Networks from Decentralized Data. AISTATS 2017. arXiv:1602.05629.

    Example:
        >>> import torch
        >>> import leakgauge as lg
        >>> from leakgauge.core import ImageDomain
        >>> model = lg.models.FedAvgCNN(ImageDomain(3, 32, 32), 10, normalize=torch.nn.Identity())
        >>> model(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 10])
    """

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
        # Each pool reduces a side to half, rounded down.
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
    """Build the LeNet of Deep Leakage from Gradients.

    It takes images of any size. Weights and biases are drawn uniformly from -init to init.

    Args:
        domain: Domain of the images: channels, height and width.
        classes: Number of classes, at least 1.
        channels: Number of channels of each convolution. The default is the paper's.
        activation: "sigmoid", "relu", "tanh", "gelu" or "leaky_relu" (slope 0.2). The default is
            the paper's.
        init: Largest absolute value of the weights and biases, above 0. The default is the
            paper's.
        dropout: Probability of dropout before the last layer, from 0 to below 1. The paper has
            none.
        seed: Seed of the initial weights. The global random state stays unchanged.

    Returns:
        The network in eval mode, with values in [0, 1] as inputs (B, C, H, W) and logits (B,
        classes) as outputs.

    Raises:
        ModelError: The domain holds no images, the activation is unknown, `init` is not above 0,
            or `dropout` is not a probability below 1. A count is not a whole number from 1 to
            1,048,576.

    References:
        Zhu, Liu, Han. Deep Leakage from Gradients. NeurIPS 2019. arXiv:1906.08935.

    Example:
        >>> import torch
        >>> import leakgauge as lg
        >>> from leakgauge.core import ImageDomain
        >>> model = lg.models.lenet(ImageDomain(3, 32, 32), 10)
        >>> model(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 10])
    """
    image = require_images(domain, "lenet")
    check_counts("lenet", classes=classes, channels=channels)
    check_dropout("lenet", dropout)
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
    """Build the ConvNet of Inverting Gradients.

    At width 64 it is the paper's ConvNet64. Images need at least 9x9 pixels. Weights have
    PyTorch's default initialization.

    Args:
        domain: Domain of the images: channels, height and width.
        classes: Number of classes, at least 1.
        width: Number of channels of the first convolution. The last five have four times as many.
            The default is the paper's.
        mean: One mean for each channel, subtracted by the first layer. By default nothing is
            subtracted.
        std: One standard deviation for each channel, above 0, by which the first layer divides.
            Give both or neither.
        seed: Seed of the initial weights. The global random state stays unchanged.

    Returns:
        The network in eval mode, with values in [0, 1] as inputs (B, C, H, W) and logits (B,
        classes) as outputs.

    Raises:
        ModelError: The domain holds no images of at least 9x9 pixels, or `mean` and `std` do not
            fit them. A count is not a whole number from 1 to 1,048,576.

    References:
        Geiping, Bauermeister, Dröge, Moeller. Inverting Gradients: How Easy Is It to Break
        Privacy in Federated Learning? NeurIPS 2020. arXiv:2003.14053.

    Example:
        >>> import torch
        >>> import leakgauge as lg
        >>> from leakgauge.core import ImageDomain
        >>> model = lg.models.convnet(ImageDomain(3, 32, 32), 10, width=4)
        >>> model(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 10])
    """
    image = require_images(domain, "convnet", smallest=9)
    check_counts("convnet", classes=classes, width=width)
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
    """Build the CNN of Federated Averaging.

    Images need at least 4x4 pixels. Weights have PyTorch's default initialization.

    Args:
        domain: Domain of the images: channels, height and width.
        classes: Number of classes, at least 1.
        channels: Number of channels of the first convolution. The second one has twice as many.
            The default is the paper's.
        width: Number of hidden units. The default is the paper's.
        dropout: Probability of dropout before the last layer, from 0 to below 1.
        mean: One mean for each channel, subtracted by the first layer. By default nothing is
            subtracted.
        std: One standard deviation for each channel, above 0, by which the first layer divides.
            Give both or neither.
        seed: Seed of the initial weights. The global random state stays unchanged.

    Returns:
        The network in eval mode, with values in [0, 1] as inputs (B, C, H, W) and logits (B,
        classes) as outputs.

    Raises:
        ModelError: The domain holds no images of at least 4x4 pixels, `mean` and `std` do not fit
            them, or `dropout` is not a probability below 1. A count is not a whole number from 1
            to 1,048,576.

    References:
        McMahan, Moore, Ramage, Hampson, Agüera y Arcas. Communication-Efficient Learning of Deep
        Networks from Decentralized Data. AISTATS 2017. arXiv:1602.05629.

    Example:
        >>> import torch
        >>> import leakgauge as lg
        >>> from leakgauge.core import ImageDomain
        >>> model = lg.models.fedavg_cnn(ImageDomain(3, 32, 32), 10)
        >>> model(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 10])
    """
    image = require_images(domain, "fedavg_cnn", smallest=4)
    check_counts("fedavg_cnn", classes=classes, channels=channels, width=width)
    check_dropout("fedavg_cnn", dropout)
    with seeded(seed):
        normalize = normalizer(domain, mean, std)
        return FedAvgCNN(
            image, classes, channels=channels, width=width, dropout=dropout, normalize=normalize
        ).eval()


def _check_init(init: float) -> None:
    """Raise ModelError unless `init` is finite and above 0."""
    if not isinstance(init, int | float) or not 0 < init < math.inf:
        raise ModelError(
            "model 'lenet'",
            expected="a finite init above 0",
            found=repr(init),
            remedy="correct the option init (the paper's is 0.5)",
        )
