"""Convolutions in sequence, without pools. The recursion of R-GAP attacks these networks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from leakgauge.core import Domain, ImageDomain, ModelError
from leakgauge.models import parts
from leakgauge.models.parts import Activation, check_counts, normalizer, require_images, seeded


class CNN(nn.Sequential):
    """Convolutions, each with an activation, and one linear layer.

    Call `cnn` to build it from a seed.

    Args:
        domain: Domain of the images: channels, height and width.
        classes: Number of classes, at least 1.
        channels: Number of output channels of each convolution.
        kernels: Kernel size of each convolution, in pixels.
        strides: Stride of each convolution.
        paddings: Padding of each convolution.
        activation: "sigmoid", "relu", "tanh", "gelu" or "leaky_relu" (slope 0.2).
        bias: Whether layers have a bias.
        normalize: First layer, a `Normalize` or the identity.

    References:
        Zhu, Blaschko. R-GAP: Recursive Gradient Attack on Privacy. ICLR 2021. arXiv:2010.07733.

    Example:
        >>> import torch
        >>> import leakgauge as lg
        >>> from leakgauge.core import ImageDomain
        >>> model = lg.models.CNN(
        ...     ImageDomain(3, 32, 32), 10, channels=[4], kernels=[3], strides=[2], paddings=[1],
        ...     activation="relu", bias=True, normalize=torch.nn.Identity()
        ... )
        >>> model(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 10])
    """

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
    """Build convolutions in sequence and one linear layer, without pools.

    Use it for attacks that go backward from layer to layer. Weights have PyTorch's default
    initialization.

    Args:
        domain: Domain of the images: channels, height and width.
        classes: Number of classes, at least 1.
        channels: Number of output channels of each convolution.
        kernels: Kernel size of each convolution, in pixels.
        strides: Stride of each convolution.
        paddings: Padding of each convolution, at least 0.
        activation: "sigmoid", "relu", "tanh", "gelu" or "leaky_relu" (slope 0.2).
        bias: Whether layers have a bias.
        mean: One mean for each channel, subtracted by the first layer. By default nothing is
            subtracted.
        std: One standard deviation for each channel, above 0, by which the first layer divides.
            Give both or neither.
        seed: Seed of the initial weights. The global random state stays unchanged.

    Returns:
        The network in eval mode, with values in [0, 1] as inputs (B, C, H, W) and logits (B,
        classes) as outputs.

    Raises:
        ModelError: The domain holds no images, the four lists differ in length, or the images are
            smaller than a kernel. A count is not a whole number from 1 to 1,048,576.

    References:
        Zhu, Blaschko. R-GAP: Recursive Gradient Attack on Privacy. ICLR 2021. arXiv:2010.07733.

    Example:
        >>> import torch
        >>> import leakgauge as lg
        >>> from leakgauge.core import ImageDomain
        >>> model = lg.models.cnn(ImageDomain(3, 32, 32), 10)
        >>> model(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 10])
    """
    image = require_images(domain, "cnn")
    check_counts("cnn", classes=classes)
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
    """Build the CNN6 of R-GAP: six convolutions and one linear layer, without biases.

    The paper's network has one output, a logit: set `classes` to 1. Weights have PyTorch's default
    initialization.

    Args:
        domain: Domain of the images: channels, height and width.
        classes: Number of classes, at least 1.
        second: Number of channels of the second convolution. The paper's CNN6-d has 20. The
            recursion cannot solve that network.
        activation: "sigmoid", "relu", "tanh", "gelu" or "leaky_relu" (slope 0.2). The default is
            the paper's.
        bias: Whether layers have a bias. The paper's have none.
        seed: Seed of the initial weights. The global random state stays unchanged.

    Returns:
        The network in eval mode, with values in [0, 1] as inputs (B, C, H, W) and logits (B,
        classes) as outputs.

    Raises:
        ModelError: The domain holds no images, or the images are smaller than a kernel. A count
            is not a whole number from 1 to 1,048,576.

    References:
        Zhu, Blaschko. R-GAP: Recursive Gradient Attack on Privacy. ICLR 2021, figure 3.
        arXiv:2010.07733.

    Example:
        >>> import torch
        >>> import leakgauge as lg
        >>> from leakgauge.core import ImageDomain
        >>> model = lg.models.cnn6(ImageDomain(3, 32, 32), 1)
        >>> model(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 1])
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
    """Raise ModelError unless the four lists have the same length and hold valid numbers."""
    lists = {"channels": channels, "kernels": kernels, "strides": strides, "paddings": paddings}
    for name, values in lists.items():
        least = 0 if name == "paddings" else 1
        whole = all(isinstance(value, int) and value >= least for value in values)
        if len(values) != len(channels) or len(values) == 0 or not whole:
            raise ModelError(
                "model 'cnn'",
                expected=f"{name} with a whole number of at least {least} for each convolution",
                found=f"{list(values)} for {len(channels)} convolutions",
                remedy="give the four lists equal lengths",
            )


def _check_sides(sides: Sequence[int], i: int) -> None:
    """Raise ModelError if convolution `i` leaves no pixel."""
    if min(sides) < 1:
        raise ModelError(
            "model 'cnn'",
            expected="images no smaller than the kernels",
            found=f"no pixel after convolution {i}, counted from 0",
            remedy="use smaller strides, larger paddings or fewer convolutions",
        )
