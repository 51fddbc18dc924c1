"""Parts that all networks share: normalization, activations, seeds, and checks of options."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from leakgauge.core import Domain, ImageDomain, ModelError, TableDomain, dtype_of, image_grid

Activation = Literal["sigmoid", "relu", "tanh", "gelu", "leaky_relu"]

MOST = 2**20
"""Largest width, depth or other count of a reference network."""

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "leaky_relu": partial(nn.LeakyReLU, 0.2),
}


class Normalize(nn.Module):
    """First layer that subtracts a mean and divides by a standard deviation.

    With this layer, a model takes examples in the units of its domain. Inputs and outputs have the
    shape (B, `*shape`). Mean and std move with the model to a device. They are not part of its
    state dict, so the layer adds no key to files of weights.

    Args:
        mean: Finite means that broadcast over one example: (C, 1, 1) for images, (D,) for tables.
        std: Finite standard deviations above 0, of the same shape.

    Raises:
        ModelError: A mean is not finite, or a std is not finite and above 0.

    Example:
        >>> import torch
        >>> import leakgauge as lg
        >>> layer = lg.models.Normalize(torch.tensor([10.0]), torch.tensor([2.0]))
        >>> layer(torch.tensor([[14.0]]))
        tensor([[2.]])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        if not (bool(torch.isfinite(mean).all()) and bool(((std > 0) & (std < torch.inf)).all())):
            raise ModelError(
                "normalization",
                expected="a finite mean and a finite, positive std",
                found=f"mean {mean.flatten().tolist()} and std {std.flatten().tolist()}",
                remedy="give one mean and one std for each channel or column",
            )
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalized examples, with the shape of `x`."""
        return (x - self.mean) / self.std

    def extra_repr(self) -> str:
        return f"mean={self.mean.flatten().tolist()}, std={self.std.flatten().tolist()}"

    @classmethod
    def of_channels(
        cls, mean: Sequence[float], std: Sequence[float], *, channels: int
    ) -> Normalize:
        """Return a layer for images. Raise ModelError unless there is one mean and one std for each channel."""
        numbers = all(isinstance(value, int | float) for value in (*mean, *std))
        if len(mean) != channels or len(std) != channels or not numbers:
            raise ModelError(
                "normalization",
                expected=f"one mean and one std for each of {channels} channels",
                found=f"mean {list(mean)} and std {list(std)}",
                remedy="give one mean and one std for each channel",
            )
        return cls(
            torch.tensor(mean).float()[:, None, None], torch.tensor(std).float()[:, None, None]
        )

    @classmethod
    def of_columns(cls, domain: TableDomain) -> Normalize:
        """Return a layer for tables that maps each column's public range to [-1, 1]."""
        low = torch.tensor([c.low for c in domain.columns], dtype=torch.float64)
        high = torch.tensor([c.high for c in domain.columns], dtype=torch.float64)
        return cls(((low + high) / 2).float(), ((high - low) / 2).float())


def normalizer(
    domain: Domain, mean: Sequence[float] | None, std: Sequence[float] | None
) -> nn.Module:
    """Return a model's first layer: `Normalize` by mean and std, or the identity if both are None."""
    if mean is None and std is None:
        return nn.Identity()
    grid = image_grid(domain)
    if mean is None or std is None or grid is None:
        raise ModelError(
            "normalization",
            expected="both mean and std, for images",
            found=f"mean {mean} and std {std} for a domain of kind {domain.kind!r}",
            remedy="give both or neither (tables need none: their public ranges normalize them)",
        )
    return Normalize.of_channels(mean, std, channels=grid[0])


def activation(name: str) -> nn.Module:
    """Return a new activation layer by name. Raise ModelError if the name is unknown."""
    if name not in _ACTIVATIONS:
        raise ModelError(
            "activation",
            expected="one of " + ", ".join(get_args(Activation)),
            found=repr(name),
            remedy="correct the option activation",
        )
    return _ACTIVATIONS[name]()


def _model_for(domain: Domain) -> str:
    """Return the name of a model for any examples of real numbers, or for any tokens."""
    return "mlp" if dtype_of(domain).is_floating_point else "transformer"


def require_images(domain: Domain, builder: str, *, smallest: int = 1) -> ImageDomain:
    """Return the domain of images. Raise ModelError unless it has images of at least `smallest` pixels a side."""
    grid = image_grid(domain)
    if grid is None:
        raise ModelError(
            f"model {builder!r}",
            expected="images, of shape (channels, height, width)",
            found=f"examples of kind {domain.kind!r} and shape {tuple(domain.shape)}",
            remedy=channels_in_front(domain.shape)
            or f"use the model {_model_for(domain)}, or a model of your own",
        )
    channels, height, width = grid
    if min(height, width) < smallest:
        raise ModelError(
            f"model {builder!r}",
            expected=f"images of at least {smallest}x{smallest} pixels",
            found=f"{height}x{width}",
            remedy="use larger images, or the model lenet or mlp",
        )
    return ImageDomain(channels, height, width)


def channels_in_front(shape: Sequence[int]) -> str:
    """Return how to write a shape of two sizes as that of an image, or an empty text for another shape."""
    if len(shape) != 2:
        return ""
    size = f"{shape[0]},{shape[1]}"
    return f"put the number of channels in front: 1,{size} for gray images, 3,{size} for color"


def check_counts(builder: str, **values: int) -> None:
    """Raise ModelError unless each of the values is a whole number from 1 to MOST."""
    for name, value in values.items():
        if not isinstance(value, int) or not 1 <= value <= MOST:
            raise ModelError(
                f"model {builder!r}",
                expected=f"{name} as a whole number from 1 to {MOST:,}",
                found=repr(value),
                remedy=f"correct the option {name}",
            )


def check_dropout(builder: str, dropout: float) -> None:
    """Raise ModelError unless `dropout` is a probability below 1."""
    if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise ModelError(
            f"model {builder!r}",
            expected="dropout as a probability from 0 to below 1",
            found=repr(dropout),
            remedy="correct the option dropout (0 means no dropout)",
        )


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the CPU's global generator inside the block, and restore its state afterwards."""
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would also seed accelerators, whose state is not restored.
        torch.default_generator.manual_seed(seed)
        yield


def require_numbers(domain: Domain, builder: str) -> None:
    """Raise ModelError unless the examples of a domain are real numbers."""
    if not dtype_of(domain).is_floating_point:
        raise ModelError(
            f"model {builder!r}",
            expected="examples of real numbers",
            found=f"whole numbers, as in data of kind {domain.kind!r}",
            remedy=f"use the model {_model_for(domain)}, or a model of your own",
        )
