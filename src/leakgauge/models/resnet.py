"""ResNet-18, with torchvision's key names and initialization."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch.nn.functional as F
from torch import Tensor, nn

from leakgauge.core import Domain, ImageDomain, ModelError
from leakgauge.models.parts import check_counts, normalizer, require_images, seeded

Stem = Literal["cifar", "imagenet"]


class _Block(nn.Module):
    """Two 3x3 convolutions and a shortcut. If the shapes differ, a 1x1 convolution adapts the shortcut."""

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or inputs != planes:
            projection = nn.Conv2d(inputs, planes, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(planes))

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, planes, H / stride, W / stride) for (B, inputs, H, W)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """A stem, four stages of two residual blocks, and one linear layer.

    Call `resnet18` to build it from a seed. The stages have 1, 2, 4 and 8 times `width` channels.

    Args:
        domain: Domain of the images: channels, height and width.
        classes: Number of classes, at least 1.
        stem: "cifar" is one 3x3 convolution. "imagenet" is a 7x7 convolution and a max pool, both
            of stride 2.
        width: Number of channels of the first stage.
        normalize: First layer, a `Normalize` or the identity.

    References:
        He, Zhang, Ren, Sun. Deep Residual Learning for Image Recognition. CVPR 2016, table 1.
        arXiv:1512.03385.

    Example:
        >>> import torch
        >>> import leakgauge as lg
        >>> from leakgauge.core import ImageDomain
        >>> model = lg.models.ResNet(ImageDomain(3, 32, 32), 10, width=4, normalize=torch.nn.Identity()).eval()
        >>> model(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 10])
    """

    def __init__(
        self,
        domain: ImageDomain,
        classes: int,
        *,
        stem: Stem = "cifar",
        width: int = 64,
        normalize: nn.Module,
    ) -> None:
        super().__init__()
        self.normalize = normalize
        size, stride, padding = (3, 1, 1) if stem == "cifar" else (7, 2, 3)
        self.conv1 = nn.Conv2d(domain.channels, width, size, stride, padding, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.Identity() if stem == "cifar" else nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(_Block(width, width, 1), _Block(width, width, 1))
        self.layer2 = _halving(width)
        self.layer3 = _halving(2 * width)
        self.layer4 = _halving(4 * width)
        self.fc = nn.Linear(8 * width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, classes) of images (B, C, H, W) in [0, 1]."""
        out = self.maxpool(F.relu(self.bn1(self.conv1(self.normalize(x)))))
        out = self.layer4(self.layer3(self.layer2(self.layer1(out))))
        return cast(Tensor, self.fc(out.mean((2, 3))))


def _halving(planes: int) -> nn.Sequential:
    """Return a stage of two blocks that halves each side and doubles the channels."""
    return nn.Sequential(_Block(planes, 2 * planes, 2), _Block(2 * planes, 2 * planes, 1))


def resnet18(
    domain: Domain,
    classes: int,
    *,
    stem: Stem = "cifar",
    width: int = 64,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
) -> nn.Module:
    """Build a ResNet-18 for small or large images.

    Its key names and initialization are torchvision's.

    Args:
        domain: Domain of the images: channels, height and width.
        classes: Number of classes, at least 1.
        stem: "cifar" keeps the resolution of small images. "imagenet" is the paper's stem.
        width: Number of channels of the first stage. The default is the paper's.
        mean: One mean for each channel, subtracted by the first layer. By default nothing is
            subtracted.
        std: One standard deviation for each channel, above 0, by which the first layer divides.
            Give both or neither.
        seed: Seed of the initial weights. The global random state stays unchanged.

    Returns:
        The network in eval mode, with values in [0, 1] as inputs (B, C, H, W) and logits (B,
        classes) as outputs.

    Raises:
        ModelError: The domain holds no images, the stem is unknown, or `mean` and `std` do not
            fit. A count is not a whole number from 1 to 1,048,576.

    References:
        He, Zhang, Ren, Sun. Deep Residual Learning for Image Recognition. CVPR 2016, table 1.
        arXiv:1512.03385.

    Example:
        >>> import torch
        >>> import leakgauge as lg
        >>> from leakgauge.core import ImageDomain
        >>> model = lg.models.resnet18(ImageDomain(3, 32, 32), 10, width=4)
        >>> model(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 10])
    """
    image = require_images(domain, "resnet18")
    check_counts("resnet18", classes=classes, width=width)
    if stem not in ("cifar", "imagenet"):
        raise ModelError(
            "model 'resnet18'",
            expected='stem "cifar" or "imagenet"',
            found=repr(stem),
            remedy="choose one of the two",
        )
    with seeded(seed):
        normalize = normalizer(domain, mean, std)
        return ResNet(image, classes, stem=stem, width=width, normalize=normalize).eval()
