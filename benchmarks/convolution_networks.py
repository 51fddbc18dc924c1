"""Networks that `convolutions.py` attacks and that LeakGauge does not ship, in eval mode, with random weights."""

from __future__ import annotations

import torch
from inspection_networks import block, vgg
from torch import Tensor, nn
from torch.nn.functional import interpolate


class Bottlenecked(nn.Module):
    """A layer of DenseNet-BC: a 1 x 1 and a 3 x 3 convolution behind BatchNorm and ReLU, appended to its input."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.ReLU(),
            nn.Conv2d(inputs, 4 * growth, 1, bias=False),
            nn.BatchNorm2d(4 * growth),
            nn.ReLU(),
            nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C + growth, H, W)."""
        return torch.cat([x, self.path(x)], 1)


def densenet121(classes: int = 10) -> nn.Module:
    """Return DenseNet-121 with a stem of stride 1 for small images, and the initial weights of torchvision."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, padding=1, bias=False)]
    width = 64
    for stage, count in enumerate((6, 12, 24, 16)):
        if stage:
            layers += [
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.Conv2d(width, width // 2, 1, bias=False),
            ]
            layers.append(nn.AvgPool2d(2))
            width //= 2
        for _ in range(count):
            layers.append(Bottlenecked(width, 32))
            width += 32
    end = [nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return with_initial_weights(nn.Sequential(*layers, *end, nn.Linear(width, classes)))


def with_initial_weights(model: nn.Module) -> nn.Module:
    """Return a DenseNet with the initial weights of torchvision. They keep the size of the activations."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return model


def scaled_vgg(norm: bool = False) -> nn.Module:
    """Return VGG-11 with the initial weights of torchvision.

    They keep the size of the activations from layer to layer.
    """
    model = vgg(norm)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0, 0.01)
            nn.init.zeros_(layer.bias)
    return model


class InFloat64(nn.Module):
    """A network that computes in float64, and so do its gradients.

    Args:
        model: The network.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.double()

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, classes)."""
        logits: Tensor = self.model(x.double())
        return logits


class UNet(nn.Module):
    """A U-Net of two levels: the encoder's outputs are appended to the decoder's inputs. A head of classes follows."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.first = nn.Sequential(*block(3, 32, True))
        self.second = nn.Sequential(nn.MaxPool2d(2), *block(32, 64, True))
        self.bottom = nn.Sequential(nn.MaxPool2d(2), *block(64, 128, True), *block(128, 128, True))
        self.up = nn.Sequential(*block(128 + 64, 64, True))
        self.last = nn.Sequential(*block(64 + 32, 32, True))
        self.head = nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, classes)."""
        first = self.first(x)
        second = self.second(first)
        deep = interpolate(self.bottom(second), scale_factor=2.0)
        up = interpolate(self.up(torch.cat([deep, second], 1)), scale_factor=2.0)
        logits: Tensor = self.head(self.last(torch.cat([up, first], 1)).mean((2, 3)))
        return logits


class Bottleneck(nn.Module):
    """Three convolutions with BatchNorm, and a shortcut around them. The middle one may have groups."""

    def __init__(
        self, inputs: int, width: int, stride: int, outputs: int = 0, groups: int = 1
    ) -> None:
        super().__init__()
        outputs = outputs or 4 * width
        self.path = nn.Sequential(
            nn.Conv2d(inputs, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride, 1, groups=groups, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.short: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            short = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.short = nn.Sequential(short, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, outputs, H / stride, W / stride)."""
        found: Tensor = (self.path(x) + self.short(x)).relu()
        return found


def resnet50(classes: int = 10) -> nn.Module:
    """Return ResNet-50 with the stem for ImageNet."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    layers.append(nn.MaxPool2d(3, 2, 1))
    inputs = 64
    for stage, count in enumerate((3, 4, 6, 3)):
        width = 64 << stage
        for i in range(count):
            layers.append(Bottleneck(inputs, width, 2 if stage and not i else 1))
            inputs = 4 * width
    for layer in nn.Sequential(*layers).modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


def resnext(classes: int = 10, groups: int = 32) -> nn.Module:
    """Return a ResNeXt of two blocks a stage with 4 channels a group in the first, and a stem for small images."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    inputs = 64
    for stage in range(4):
        width, outputs = 4 * groups << stage, 256 << stage
        for i in range(2):
            stride = 2 if stage and not i else 1
            layers.append(Bottleneck(inputs, width, stride, outputs, groups))
            inputs = outputs
    for layer in nn.Sequential(*layers).modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))
