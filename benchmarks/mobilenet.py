"""MobileNetV1 with 1000 classes, its published weights, and the ImageNet samples, all under LEAKGAUGE_DATA."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

import leakgauge as lg

CROP = 224
WEIGHTS = "imagenet_mobilenetv1_025_224.safetensors"
PHOTOS = "imagenet_samples"


def mobilenet() -> nn.Module:
    """Return the published network, in eval mode."""
    network = MobileNet().eval()
    file = Path(os.environ["LEAKGAUGE_DATA"]) / "weights" / WEIGHTS
    # The file has no counts of batches.
    left = network.load_state_dict(load_file(file), strict=False)
    assert not left.unexpected_keys
    assert all(key.endswith("num_batches_tracked") for key in left.missing_keys)
    return network


def samples(side: int = CROP + 32) -> lg.Dataset:
    """Return the ImageNet samples, `side` pixels wide. The name of a file starts with its class of 1000."""
    data = lg.data.image_folder(PHOTOS, size=side)
    folder = Path(os.environ["LEAKGAUGE_DATA"]) / "data" / PHOTOS
    names = sorted(path.name for path in folder.glob("*.jpg"))
    targets = torch.tensor([int(name[:4]) for name in names])
    return replace(data, targets=targets, classes=1000, class_names=())


class MobileNet(nn.Module):
    """MobileNetV1, width 0.25 (Howard et al. 2017), with TensorFlow's padding: 256 features, 1000 classes."""

    STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
    WIDTHS = (16, 32, 32, 64, 64, 128, 128, 128, 128, 128, 128, 256, 256)

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, stride=2, bias=False)
        self.bn1 = nn.BatchNorm2d(8, eps=1e-3)
        inputs = (8, *self.WIDTHS[:-1])
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "dw": nn.Conv2d(i, i, 3, stride=stride, groups=i, bias=False),
                    "bn1": nn.BatchNorm2d(i, eps=1e-3),
                    "pw": nn.Conv2d(i, o, 1, bias=False),
                    "bn2": nn.BatchNorm2d(o, eps=1e-3),
                }
            )
            for i, o, stride in zip(inputs, self.WIDTHS, self.STRIDES, strict=True)
        )
        self.fc = nn.Linear(256, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, 1000) of images (B, 3, 224, 224) in [0, 1]."""
        x = functional.relu6(self.bn1(self.conv1(functional.pad(2 * x - 1, (0, 1, 0, 1)))))
        for block, stride in zip(self.blocks, self.STRIDES, strict=True):
            parts = cast(nn.ModuleDict, block)
            x = functional.pad(x, (0, 1, 0, 1) if stride == 2 else (1, 1, 1, 1))
            x = functional.relu6(parts["bn1"](parts["dw"](x)))
            x = functional.relu6(parts["bn2"](parts["pw"](x)))
        return cast(Tensor, self.fc(x.mean((2, 3))))
