"""Small residual networks for `convolution_defenses.py`, their training, and noise on parts of a gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from common import CIFAR
from torch import Tensor, nn
from torch.nn import functional

import leakgauge as lg

WIDTH = 16
"""Channels of the first stage."""
HELD_OUT = 1000
"""Images that are not trained on. They measure the accuracy."""
BATCH = 50
EXPOSED = "stage3"
"""The stage whose gradients have more channels than positions."""


@dataclass(frozen=True)
class Design:
    """A network of four stages. The last two have two residual blocks each, the others one.

    Args:
        channels: Output channels of the stages.
        strides: Strides of the stages.
        depthwise: Number of stages at the end whose 3 x 3 kernels read one channel each.
        groups: Number of groups of the 3 x 3 kernels of the last two stages.
        frozen: Number of stages at the end that are not trained and not shared.
    """

    channels: tuple[int, ...] = (WIDTH, 2 * WIDTH, 4 * WIDTH, 8 * WIDTH)
    strides: tuple[int, ...] = (1, 2, 2, 2)
    depthwise: int = 0
    groups: int = 1
    frozen: int = 0

    def build(self, seed: int) -> nn.Module:
        """Return the network in eval mode, with weights from a seed."""
        with lg.Seeds(seed).isolated("weights"):
            model = _Network(self)
        for stage in range(4 - self.frozen, 4):
            model.get_submodule(f"stage{stage}").requires_grad_(False)
        return model.eval()


class _Network(nn.Module):
    """A convolution, four stages of residual blocks, a mean over positions and a linear layer."""

    def __init__(self, design: Design) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, design.channels[0], 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(design.channels[0])
        width = design.channels[0]
        for i, (channels, stride) in enumerate(zip(design.channels, design.strides, strict=True)):
            depthwise = i >= 4 - design.depthwise
            groups = design.groups if i >= 2 else 1
            blocks = [_Block(width, channels, stride, depthwise, groups)]
            if i >= 2:
                blocks.append(_Block(channels, channels, 1, depthwise, groups))
            self.add_module(f"stage{i}", nn.Sequential(*blocks))
            width = channels
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem((x - 0.48) / 0.25)).relu()
        for i in range(4):
            x = self.get_submodule(f"stage{i}")(x)
        found: Tensor = self.head(x.mean((2, 3)))
        return found


class _Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(
        self, width: int, channels: int, stride: int, depthwise: bool, groups: int
    ) -> None:
        super().__init__()
        self.conv1 = _kernel(width, channels, stride, depthwise, groups)
        self.conv2 = _kernel(channels, channels, 1, depthwise, groups)
        self.norm1, self.norm2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.short = (
            nn.Conv2d(width, channels, 1, stride, bias=False)
            if stride > 1 or width != channels
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))
        found: Tensor = (y + self.short(x)).relu()
        return found


def _kernel(width: int, channels: int, stride: int, depthwise: bool, groups: int) -> nn.Module:
    """Return a 3 x 3 convolution, or a depthwise one with a 1 x 1 convolution behind it."""
    if not depthwise:
        return nn.Conv2d(width, channels, 3, stride, 1, groups=groups, bias=False)
    return nn.Sequential(
        nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False),
        nn.Conv2d(width, channels, 1, bias=False),
    )


Noise = Callable[[Mapping[str, Tensor], torch.Generator], Mapping[str, Tensor]]
"""A map from gradients by name to gradients with noise."""


def noise_on(part: str, level: float) -> Noise:
    """Return a function that adds noise to a part of a gradient.

    Args:
        part: "everything", "exposed" for the convolutions of the last stage, or "row space" for the row
            space of their gradients.
        level: Standard deviation, in units of the root mean square of the whole gradient.
    """

    def add(gradients: Mapping[str, Tensor], generator: torch.Generator) -> Mapping[str, Tensor]:
        squares = sum(float(t.double().square().sum()) for t in gradients.values())
        std = level * math.sqrt(squares / sum(t.numel() for t in gradients.values()))
        found = dict(gradients)
        for name, t in gradients.items():
            if part != "everything" and not (name.startswith(EXPOSED) and t.ndim == 4):
                continue
            noise = std * torch.randn(t.shape, generator=generator, dtype=t.dtype)
            if part == "row space":
                rows = torch.linalg.svd(t.flatten(1).double(), full_matrices=False)
                kept = rows.Vh[1e-6 * rows.S[0] < rows.S].to(t)
                noise = ((noise.flatten(1) @ kept.T) @ kept).reshape(t.shape)
            found[name] = t + noise
        return found

    return add


def accuracy_of(design: Design, noise: Noise | None, *, epochs: int, seed: int) -> float:
    """Return the accuracy on held-out images after training with noise on each gradient."""
    data = lg.data.npz(CIFAR, split="train")
    generator = lg.Seeds(seed).generator("training")
    order = torch.randperm(len(data), generator=generator)
    test, train = order[:HELD_OUT], order[HELD_OUT:]
    model = design.build(seed).train()
    weights = {n: p for n, p in model.named_parameters() if p.requires_grad}
    descent = torch.optim.SGD(list(weights.values()), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for _ in range(epochs):
        for some in torch.split(train[torch.randperm(len(train), generator=generator)], BATCH):
            loss = functional.cross_entropy(model(data.inputs[some]), data.targets[some])
            found = torch.autograd.grad(loss, list(weights.values()))
            gradients: Mapping[str, Tensor] = dict(zip(weights, found, strict=True))
            if noise is not None:
                gradients = noise(gradients, generator)
            for name, weight in weights.items():
                weight.grad = gradients[name]
            descent.step()
    return _share(model.eval(), data.inputs[test], data.targets[test])


def _share(model: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    """Return the fraction of right answers."""
    with torch.no_grad():
        parts: Sequence[Tensor] = [model(some).argmax(1) for some in torch.split(inputs, 200)]
    return float((torch.cat(list(parts)) == targets).double().mean())
