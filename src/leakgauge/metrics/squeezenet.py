"""SqueezeNet 1.1 (Iandola et al. 2016) as LPIPS reads it: the activations at seven depths."""

from __future__ import annotations

import torch
from torch import Tensor, nn

WIDTHS = (64, 128, 256, 384, 384, 512, 512)
"""Channels of the seven activations."""

SMALLEST_SIDE = 17
"""Pixels a side under which a pool has nothing left to pool."""

_TAPS = (1, 4, 7, 9, 10, 11, 12)


class Fire(nn.Module):
    """A narrow 1 x 1 convolution, then 1 x 1 and 3 x 3 side by side, each with a ReLU."""

    def __init__(self, inputs: int, narrow: int, each: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, narrow, 1)
        self.expand1x1 = nn.Conv2d(narrow, each, 1)
        self.expand3x3 = nn.Conv2d(narrow, each, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(x).relu()
        return torch.cat([self.expand1x1(x).relu(), self.expand3x3(x).relu()], dim=1)


class SqueezeNet(nn.Module):
    """The convolutions of SqueezeNet 1.1, tensors named as torchvision names them; no classifier.

    Maps normalized images (N, 3, H, W), of at least SMALLEST_SIDE pixels a side, to the seven
    activations (N, WIDTHS[i], h_i, w_i), all ReLUs' and so none negative.
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
