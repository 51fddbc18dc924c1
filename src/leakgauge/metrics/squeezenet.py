"""SqueezeNet 1.1, as LPIPS reads it: its activations at seven depths."""

from __future__ import annotations

import torch
from torch import Tensor, nn

WIDTHS = (64, 128, 256, 384, 384, 512, 512)
"""Channels of the seven activations."""

SMALLEST_SIDE = 17
"""Least pixels a side. Below, a pooling layer has no input left."""

_TAPS = (1, 4, 7, 9, 10, 11, 12)


class Fire(nn.Module):
    """A narrow 1 x 1 convolution, followed by 1 x 1 and 3 x 3 convolutions side by side, each with a ReLU.

    Args:
        inputs: Number of input channels.
        narrow: Number of channels of the narrow convolution.
        each: Number of channels of each of the two other convolutions.
    """

    def __init__(self, inputs: int, narrow: int, each: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, narrow, 1)
        self.expand1x1 = nn.Conv2d(narrow, each, 1)
        self.expand3x3 = nn.Conv2d(narrow, each, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(x).relu()
        return torch.cat([self.expand1x1(x).relu(), self.expand3x3(x).relu()], dim=1)


class SqueezeNet(nn.Module):
    """The convolutions of SqueezeNet 1.1, without its classifier.

    Tensors have torchvision's names. The network maps normalized images (N, 3, H, W), of at least
    17 pixels a side, to seven activations `(N, WIDTHS[i], h_i, w_i)`. They come from ReLUs, so none
    is negative.

    References:
        Iandola, Han, Moskewicz, Ashraf, Dally, Keutzer. SqueezeNet: AlexNet-level accuracy with 50x
        fewer parameters and <0.5MB model size. 2016. arXiv:1602.07360.

    Example:
        >>> import leakgauge as lg
        >>> import torch
        >>> activations = lg.metrics.SqueezeNet()(torch.zeros(1, 3, 32, 32))
        >>> [activation.shape[1] for activation in activations]
        [64, 128, 256, 384, 384, 512, 512]
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 3, stride=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(64, 16, 64),
            Fire(128, 16, 64),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(128, 32, 128),
            Fire(256, 32, 128),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(256, 48, 192),
            Fire(384, 48, 192),
            Fire(384, 64, 256),
            Fire(512, 64, 256),
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        activations = []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in _TAPS:
                activations.append(x)
        return activations
