"""The small residual networks of He et al. 2016, section 4.2, for 32x32 images.

Key names are those of akamaster/pytorch_resnet_cifar10, whose weights are widely used: conv1, bn1,
layer{1,2,3}.{i}.{conv1,bn1,conv2,bn2}, linear. Shortcuts are option A: without parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from leakgauge.core import Domain, ImageDomain
from leakgauge.models.parts import counts, dropping, images, normalizer, seeded

# Those of ImageNet, which the published CIFAR-10 weights were trained with.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class _Block(nn.Module):
    """Two 3x3 convolutions and a shortcut: (B, inputs, H, W) to (B, planes, H / stride, ...)."""

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.stride, self.added = stride, planes - inputs

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self._shortcut(x))

    def _shortcut(self, x: Tensor) -> Tensor:
        """Option A: every second pixel, and zeros for the channels that were added."""
        if not self.added:
            return x
        half = self.added // 2
        strided = x[:, :, :: self.stride, :: self.stride]
        return F.pad(strided, (0, 0, 0, 0, half, self.added - half))


class CifarResNet(nn.Module):
    """6 n + 2 layers: a convolution, three stages of `blocks` = n blocks, then, behind dropout, one linear layer."""

    def __init__(
        self,
        domain: ImageDomain,
        classes: int,
        *,
        blocks: int,
        width: int,
        dropout: float,
        normalize: nn.Module,
    ) -> None:
        super().__init__()
        self.normalize = normalize
        self.conv1 = nn.Conv2d(domain.channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, blocks, stride=1)
        self.layer2 = _stage(width, 2 * width, blocks, stride=2)
        self.layer3 = _stage(2 * width, 4 * width, blocks, stride=2)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.linear = nn.Linear(4 * width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, C, H, W) in [0, 1]."""
        out = F.relu(self.bn1(self.conv1(self.normalize(x))))
        out = self.layer3(self.layer2(self.layer1(out)))
        return cast(Tensor, self.linear(self.dropout(out.mean((2, 3)))))


def _stage(inputs: int, planes: int, blocks: int, *, stride: int) -> nn.Sequential:
    first = _Block(inputs, planes, stride)
    return nn.Sequential(first, *(_Block(planes, planes, 1) for _ in range(blocks - 1)))


def _build(
    depth: int,
    domain: Domain,
    classes: int,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    seed: int,
    *,
    width: int = 16,
    dropout: float = 0.0,
) -> nn.Module:
    name = f"resnet{depth}"
    image = images(domain, name)
    counts(name, classes=classes, width=width)
    dropping(name, dropout)
    if mean is None and std is None:
        mean, std = (MEAN, STD) if image.channels == 3 else ([0.5] * image.channels,) * 2
    with seeded(seed):
        normalize = normalizer(domain, mean, std)
        return CifarResNet(
            image,
            classes,
            blocks=(depth - 2) // 6,
            width=width,
            dropout=dropout,
            normalize=normalize,
        ).eval()


def resnet20(
    domain: Domain,
    classes: int,
    *,
    width: int = 16,
    dropout: float = 0.0,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
) -> nn.Module:
    """The ResNet-20 of He et al. 2016 for images of 32 pixels: 269,722 parameters at 10 classes and width 16.

    It is that of section 4.2 of the paper, with three blocks in each stage.

    mean and std: one for each channel, of the first layer's normalization (default: ImageNet's for
    three channels, else 0.5); `dropout` is the probability before the last layer, which they have not. In eval
    mode. Raises ModelError for a domain other than images, a width that is not positive, a dropout not below 1.
    """
    return _build(20, domain, classes, mean, std, seed, width=width, dropout=dropout)


def resnet32(
    domain: Domain,
    classes: int,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
) -> nn.Module:
    """The ResNet-32 of He et al. 2016 for images of 32 pixels: 464,154 parameters at 10 classes.

    It is `resnet20` with five blocks in each stage.
    """
    return _build(32, domain, classes, mean, std, seed)


def resnet44(
    domain: Domain,
    classes: int,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
) -> nn.Module:
    """The ResNet-44 of He et al. 2016 for images of 32 pixels: 658,586 parameters at 10 classes.

    It is `resnet20` with seven blocks in each stage.
    """
    return _build(44, domain, classes, mean, std, seed)


def resnet56(
    domain: Domain,
    classes: int,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
) -> nn.Module:
    """The ResNet-56 of He et al. 2016 for images of 32 pixels: 853,018 parameters at 10 classes.

    It is `resnet20` with nine blocks in each stage.
    """
    return _build(56, domain, classes, mean, std, seed)
