"""Small residual networks for images of 32x32 pixels (He et al. 2016, section 4.2).

Key names are those of akamaster/pytorch_resnet_cifar10, whose weights are widely used: conv1, bn1,
layer{1,2,3}.{i}.{conv1,bn1,conv2,bn2}, linear. Shortcuts are the paper's option A, which has no parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from leakgauge.core import Domain, ImageDomain
from leakgauge.models.parts import check_counts, check_dropout, normalizer, require_images, seeded

# The published CIFAR-10 weights were trained with the means and deviations of ImageNet.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class _Block(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters."""

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.stride, self.added = stride, planes - inputs

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, planes, H / stride, W / stride) for (B, inputs, H, W)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self._shortcut(x))

    def _shortcut(self, x: Tensor) -> Tensor:
        """Return the paper's option A: every second pixel, and zeros for the added channels."""
        if not self.added:
            return x
        half = self.added // 2
        strided = x[:, :, :: self.stride, :: self.stride]
        return F.pad(strided, (0, 0, 0, 0, half, self.added - half))


class CifarResNet(nn.Module):
    """A convolution, three stages of residual blocks, and one linear layer.

    Call `resnet20`, `resnet32`, `resnet44` or `resnet56` to build it from a seed. It has 6 n + 2
    layers with n blocks in each stage.

    Args:
        domain: Domain of the images: channels, height and width.
        classes: Number of classes, at least 1.
        blocks: Number of blocks in each stage.
        width: Number of channels of the first stage.
        dropout: Probability of dropout before the last layer, from 0 to below 1.
        normalize: First layer, a `Normalize` or the identity.

    References:
        He, Zhang, Ren, Sun. Deep Residual Learning for Image Recognition. CVPR 2016, section 4.2.
        arXiv:1512.03385.

    Example:
        >>> import torch
        >>> import leakgauge as lg
        >>> from leakgauge.core import ImageDomain
        >>> model = lg.models.CifarResNet(
        ...     ImageDomain(3, 32, 32), 10, blocks=1, width=4, dropout=0.0, normalize=torch.nn.Identity()
        ... ).eval()
        >>> model(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 10])
    """

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
        """Return logits (B, classes) of images (B, C, H, W) in [0, 1]."""
        out = F.relu(self.bn1(self.conv1(self.normalize(x))))
        out = self.layer3(self.layer2(self.layer1(out)))
        return cast(Tensor, self.linear(self.dropout(out.mean((2, 3)))))


def _stage(inputs: int, planes: int, blocks: int, *, stride: int) -> nn.Sequential:
    """Return a stage of residual blocks. The first one changes the number of channels and has the stride."""
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
    """Build the network with `depth` layers. Options are those of `resnet20`."""
    name = f"resnet{depth}"
    image = require_images(domain, name)
    check_counts(name, classes=classes, width=width)
    check_dropout(name, dropout)
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
    """Build a ResNet-20 for images of 32x32 pixels.

    It has 269,722 parameters for color images, 10 classes and width 16.

    Args:
        domain: Domain of the images: channels, height and width.
        classes: Number of classes, at least 1.
        width: Number of channels of the first stage. The default is the paper's.
        dropout: Probability of dropout before the last layer, from 0 to below 1. The paper has
            none.
        mean: One mean for each channel, subtracted by the first layer. The default is ImageNet's
            for three channels, else 0.5.
        std: One standard deviation for each channel, above 0. The default is ImageNet's for three
            channels, else 0.5.
        seed: Seed of the initial weights. The global random state stays unchanged.

    Returns:
        The network in eval mode, with values in [0, 1] as inputs (B, C, H, W) and logits (B,
        classes) as outputs.

    Raises:
        ModelError: The domain holds no images, `mean` and `std` do not fit, or `dropout` is not a
            probability below 1. A count is not a whole number from 1 to 1,048,576.

    References:
        He, Zhang, Ren, Sun. Deep Residual Learning for Image Recognition. CVPR 2016, section 4.2.
        arXiv:1512.03385.

    Example:
        >>> import torch
        >>> import leakgauge as lg
        >>> from leakgauge.core import ImageDomain
        >>> model = lg.models.resnet20(ImageDomain(3, 32, 32), 10)
        >>> model(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 10])
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
    """Build a ResNet-32 for images of 32x32 pixels.

    It is `resnet20` with five blocks in each stage. It has 464,154 parameters for color images and
    10 classes.

    Args:
        domain: Domain of the images: channels, height and width.
        classes: Number of classes, at least 1.
        mean: One mean for each channel, subtracted by the first layer. The default is ImageNet's
            for three channels, else 0.5.
        std: One standard deviation for each channel, above 0. The default is ImageNet's for three
            channels, else 0.5.
        seed: Seed of the initial weights. The global random state stays unchanged.

    Returns:
        The network in eval mode, with values in [0, 1] as inputs (B, C, H, W) and logits (B,
        classes) as outputs.

    Raises:
        ModelError: The domain holds no images, or `mean` and `std` do not fit. A count is not a
            whole number from 1 to 1,048,576.

    References:
        He, Zhang, Ren, Sun. Deep Residual Learning for Image Recognition. CVPR 2016, section 4.2.
        arXiv:1512.03385.

    Example:
        >>> import torch
        >>> import leakgauge as lg
        >>> from leakgauge.core import ImageDomain
        >>> model = lg.models.resnet32(ImageDomain(3, 32, 32), 10)
        >>> model(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 10])
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
    """Build a ResNet-44 for images of 32x32 pixels.

    It is `resnet20` with seven blocks in each stage. It has 658,586 parameters for color images
    and 10 classes.

    Args:
        domain: Domain of the images: channels, height and width.
        classes: Number of classes, at least 1.
        mean: One mean for each channel, subtracted by the first layer. The default is ImageNet's
            for three channels, else 0.5.
        std: One standard deviation for each channel, above 0. The default is ImageNet's for three
            channels, else 0.5.
        seed: Seed of the initial weights. The global random state stays unchanged.

    Returns:
        The network in eval mode, with values in [0, 1] as inputs (B, C, H, W) and logits (B,
        classes) as outputs.

    Raises:
        ModelError: The domain holds no images, or `mean` and `std` do not fit. A count is not a
            whole number from 1 to 1,048,576.

    References:
        He, Zhang, Ren, Sun. Deep Residual Learning for Image Recognition. CVPR 2016, section 4.2.
        arXiv:1512.03385.

    Example:
        >>> import torch
        >>> import leakgauge as lg
        >>> from leakgauge.core import ImageDomain
        >>> model = lg.models.resnet44(ImageDomain(3, 32, 32), 10)
        >>> model(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 10])
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
    """Build a ResNet-56 for images of 32x32 pixels.

    It is `resnet20` with nine blocks in each stage. It has 853,018 parameters for color images and
    10 classes.

    Args:
        domain: Domain of the images: channels, height and width.
        classes: Number of classes, at least 1.
        mean: One mean for each channel, subtracted by the first layer. The default is ImageNet's
            for three channels, else 0.5.
        std: One standard deviation for each channel, above 0. The default is ImageNet's for three
            channels, else 0.5.
        seed: Seed of the initial weights. The global random state stays unchanged.

    Returns:
        The network in eval mode, with values in [0, 1] as inputs (B, C, H, W) and logits (B,
        classes) as outputs.

    Raises:
        ModelError: The domain holds no images, or `mean` and `std` do not fit. A count is not a
            whole number from 1 to 1,048,576.

    References:
        He, Zhang, Ren, Sun. Deep Residual Learning for Image Recognition. CVPR 2016, section 4.2.
        arXiv:1512.03385.

    Example:
        >>> import torch
        >>> import leakgauge as lg
        >>> from leakgauge.core import ImageDomain
        >>> model = lg.models.resnet56(ImageDomain(3, 32, 32), 10)
        >>> model(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 10])
    """
    return _build(56, domain, classes, mean, std, seed)
