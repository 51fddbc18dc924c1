"""Fully connected networks."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from leakgauge.core import Domain, TableDomain
from leakgauge.models import parts
from leakgauge.models.parts import Activation, Normalize, counts, dropping, normalizer, seeded


class MLP(nn.Sequential):
    """A normalization, then `depth` linear layers with activations, and dropout, between them: (B, classes)."""

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
    """A multilayer perceptron of `depth` linear layers, for examples of any kind and shape.

    Tables are first mapped from their columns' public ranges to [-1, 1]; images by mean and std,
    one for each channel (default: not at all). `dropout` is the probability after each
    activation. PyTorch's default initialization; in eval mode. Raises ModelError for an unknown
    activation, options that are not positive, and a dropout that is no probability below 1.
    """
    counts("mlp", classes=classes, width=width, depth=depth)
    dropping("mlp", dropout)
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
