"""Convolutions one after the other, without pools: the networks that R-GAP's recursion is for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from leakgauge.core import Domain, ImageDomain, ModelError
from leakgauge.models import parts
from leakgauge.models.parts import Activation, counts, images, normalizer, seeded


class CNN(nn.Sequential):
    """A normalization, convolutions each with its activation, then one linear layer: (B, classes)."""

    def __init__(
        self,
        domain: ImageDomain,
        classes: int,
        *,
        channels: Sequence[int],
        kernels: Sequence[int],
        strides: Sequence[int],
        paddings: Sequence[int],
        activation: Activation,
        bias: bool,
        normalize: nn.Module,
    ) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict(normalize=normalize)
        inputs, sides = domain.channels, [domain.height, domain.width]
        shapes = zip(channels, kernels, strides, paddings, strict=True)
        for i, (outputs, kernel, stride, padding) in enumerate(shapes):
            layers[f"conv{i}"] = nn.Conv2d(
                inputs, outputs, kernel, stride=stride, padding=padding, bias=bias
            )
            layers[f"{activation}{i}"] = parts.activation(activation)
            inputs = outputs
            sides = [(side + 2 * padding - kernel) // stride + 1 for side in sides]
            _check_sides(sides, i)
        layers["flatten"] = nn.Flatten()
        layers["linear"] = nn.Linear(inputs * sides[0] * sides[1], classes, bias=bias)
        super().__init__(layers)


def cnn(
    domain: Domain,
    classes: int,
    *,
    channels: Sequence[int] = (12, 36, 64),
    kernels: Sequence[int] = (5, 3, 3),
    strides: Sequence[int] = (1, 2, 2),
    paddings: Sequence[int] = (2, 1, 1),
    activation: Activation = "leaky_relu",
    bias: bool = True,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
) -> nn.Module:
    """A chain of convolutions without pools, then one linear layer. Each convolution has its own options.

    PyTorch's default initialization; in eval mode. mean and std: one for each channel (default:
    none). Raises ModelError for a domain other than images, lists of unequal length, numbers out of
    range, and images smaller than the kernels.
    """
    image = images(domain, "cnn")
    counts("cnn", classes=classes)
    _check_lists(channels, kernels, strides, paddings)
    with seeded(seed):
        return CNN(
            image,
            classes,
            channels=channels,
            kernels=kernels,
            strides=strides,
            paddings=paddings,
            activation=activation,
            bias=bias,
            normalize=normalizer(domain, mean, std),
        ).eval()


def cnn6(
    domain: Domain,
    classes: int,
    *,
    second: int = 36,
    activation: Activation = "leaky_relu",
    bias: bool = False,
    seed: int = 0,
) -> nn.Module:
    """The CNN6 of R-GAP (Zhu and Blaschko 2021, figure 3): six convolutions, LeakyReLU(0.2), no bias.

    `second`: channels of the second convolution, 20 in the paper's CNN6-d, which the recursion
    cannot solve. The paper's has one output, a logit: classes = 1. PyTorch's default initialization;
    in eval mode. Raises ModelError as `cnn` does.
    """
    return cnn(
        domain,
        classes,
        channels=(12, second, 36, 36, 64, 128),
        kernels=(4, 3, 3, 3, 3, 3),
        strides=(2, 2, 1, 1, 2, 1),
        paddings=(2, 1, 1, 1, 1, 1),
        activation=activation,
        bias=bias,
        seed=seed,
    )


def _check_lists(
    channels: Sequence[int], kernels: Sequence[int], strides: Sequence[int], paddings: Sequence[int]
) -> None:
    lists = {"channels": channels, "kernels": kernels, "strides": strides, "paddings": paddings}
    for name, values in lists.items():
        least = 0 if name == "paddings" else 1
        whole = all(isinstance(value, int) and value >= least for value in values)
        if len(values) != len(channels) or len(values) == 0 or not whole:
            raise ModelError(
                "model 'cnn'",
                expected=f"{name}: a whole number of at least {least} for each convolution",
                found=f"{list(values)} for {len(channels)} convolutions",
                remedy="give the four lists equal lengths",
            )


def _check_sides(sides: Sequence[int], i: int) -> None:
    if min(sides) < 1:
        raise ModelError(
            "model 'cnn'",
            expected="images no smaller than the kernels",
            found=f"none of a side left after convolution {i}",
            remedy="use smaller strides, larger paddings or fewer convolutions",
        )
