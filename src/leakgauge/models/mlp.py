"""Fully connected networks."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from leakgauge.core import Domain, TableDomain
from leakgauge.models import parts
from leakgauge.models.parts import (
    Activation,
    Normalize,
    check_counts,
    check_dropout,
    normalizer,
    require_numbers,
    seeded,
)


class MLP(nn.Sequential):
    """Linear layers with activations and dropout between them.

    Call `mlp` to build it from a seed. Inputs (B, `*shape`) are flattened. Outputs are logits (B,
    classes).

    Args:
        features: Number of values of one example.
        classes: Number of classes, at least 1.
        width: Number of hidden units of each layer.
        depth: Number of linear layers.
        activation: "sigmoid", "relu", "tanh", "gelu" or "leaky_relu" (slope 0.2).
        dropout: Probability of dropout after each activation, from 0 to below 1.
        normalize: First layer, a `Normalize` or the identity.

    Example:
        >>> import torch
        >>> import leakgauge as lg
        >>> model = lg.models.MLP(64, 10, width=8, depth=2, normalize=torch.nn.Identity())
        >>> model(torch.zeros(1, 64)).shape
        torch.Size([1, 10])
    """

    def __init__(
        self,
        features: int,
        classes: int,
        *,
        width: int = 256,
        depth: int = 4,
        activation: Activation = "relu",
        dropout: float = 0.0,
        normalize: nn.Module,
    ) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict(normalize=normalize, flatten=nn.Flatten())
        widths = (features, *(width for _ in range(depth - 1)), classes)
        for i in range(depth):
            if i:
                layers[f"{activation}{i - 1}"] = parts.activation(activation)
                if dropout:
                    layers[f"dropout{i - 1}"] = nn.Dropout(dropout)
            layers[f"linear{i}"] = nn.Linear(widths[i], widths[i + 1])
        super().__init__(layers)


def mlp(
    domain: Domain,
    classes: int,
    *,
    width: int = 256,
    depth: int = 4,
    activation: Activation = "relu",
    dropout: float = 0.0,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
) -> nn.Module:
    """Build a multilayer perceptron, for examples of any kind and shape.

    For a table, the first layer maps each column from its public range to [-1, 1]. Weights have
    PyTorch's default initialization.

    Args:
        domain: Domain of the examples.
        classes: Number of classes, at least 1.
        width: Number of hidden units of each layer.
        depth: Number of linear layers.
        activation: "sigmoid", "relu", "tanh", "gelu" or "leaky_relu" (slope 0.2).
        dropout: Probability of dropout after each activation, from 0 to below 1.
        mean: One mean for each channel, subtracted by the first layer. By default nothing is
            subtracted.
        std: One standard deviation for each channel, above 0, by which the first layer divides.
            Give both or neither. Tables need none.
        seed: Seed of the initial weights. The global random state stays unchanged.

    Returns:
        The network in eval mode, with inputs (B, `*shape`) and logits (B, classes) as outputs.

    Raises:
        ModelError: The examples are tokens, the activation is unknown, `mean` and `std` do not fit the domain, or
            `dropout` is not a probability below 1. A count is not a whole number from 1 to
            1,048,576.

    Example:
        >>> import torch
        >>> import leakgauge as lg
        >>> from leakgauge.core import ImageDomain
        >>> model = lg.models.mlp(ImageDomain(3, 32, 32), 10, width=16)
        >>> model(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 10])
    """
    check_counts("mlp", classes=classes, width=width, depth=depth)
    check_dropout("mlp", dropout)
    require_numbers(domain, "mlp")
    normalize = normalizer(domain, mean, std)
    if isinstance(domain, TableDomain):
        normalize = Normalize.of_columns(domain)
    with seeded(seed):
        return MLP(
            math.prod(domain.shape),
            classes,
            width=width,
            depth=depth,
            activation=activation,
            dropout=dropout,
            normalize=normalize,
        ).eval()
