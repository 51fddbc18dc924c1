"""Parametrizations: the variables that a descent moves, and the examples that they stand for."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from leakgauge.core import ModelError, Observation, unit_shape


class Parametrization:
    """Variables, an example's along the first axis, and the examples that they stand for.

    `invertible` where any examples have variables: a search may then start from a guess, meet others, and count
    what the update tells of examples by what it tells of variables.
    """

    invertible: ClassVar[bool] = True

    def shape(self, observation: Observation) -> tuple[int, ...]:
        """The shape of the variables (B, ...)."""
        return (observation.batch_size, *unit_shape(observation.domain))

    def start(self, observation: Observation, generator: torch.Generator) -> Tensor:
        """Variables (B, ...), drawn from `generator`."""
        raise NotImplementedError

    def decode(self, variables: Tensor) -> Tensor:
        """Variables (B, ...) to unit coordinates (B, *shape), differentiable."""
        raise NotImplementedError

    def encode(self, unit: Tensor) -> Tensor:
        """The inverse of `decode`. Raises ModelError where there is none."""
        raise ModelError(
            "start from a guess",
            expected="a parametrization with an inverse",
            found=repr(self),
            remedy="choose one, such as Direct, or start from noise",
        )

    def project(self, variables: Tensor) -> None:
        """Move the variables, in place, to the nearest ones that are allowed."""


@dataclass(frozen=True, kw_only=True)
class Direct(Parametrization):
    """Each value of each example is a variable v: unit = center + spread * v, v ~ noise * N(0, 1) at the start.

    `box` keeps the examples in [0, 1] after each step. On images with center 0 and spread 1 the
    variables are the pixels.
    """

    center: float = 0.0
    spread: float = 1.0
    noise: float = 1.0
    box: bool = False

    def start(self, observation: Observation, generator: torch.Generator) -> Tensor:
        """Variables (B, *shape), drawn from `generator`."""
        like = observation.update.like
        shape = self.shape(observation)
        return self.noise * torch.randn(shape, generator=generator, dtype=torch.float32).to(like)

    def decode(self, variables: Tensor) -> Tensor:
        """Variables (B, *shape) to unit coordinates (B, *shape), differentiable."""
        return self.center + self.spread * variables

    def encode(self, unit: Tensor) -> Tensor:
        """The inverse of `decode`."""
        return (unit - self.center) / self.spread

    def project(self, variables: Tensor) -> None:
        """Move the variables, in place, to the nearest ones that the box allows."""
        if self.box:
            variables.clamp_(-self.center / self.spread, (1 - self.center) / self.spread)


@dataclass(frozen=True, kw_only=True)
class Spectral(Direct):
    """Each variable is a coefficient of a channel's discrete cosine transform, scaled by 1 / (1 + frequency).

    Natural images have such a spectrum (Field 1987), so that to a descent all frequencies are alike.
    Examples that are no images (C, H, W) are as in `Direct`. No box: see `InRange`.
    """

    spread: float = 2.0

    def __post_init__(self) -> None:
        if self.box:
            raise ValueError("a box bounds values, not coefficients: use the prior InRange")

    def decode(self, variables: Tensor) -> Tensor:
        """Coefficients (B, C, H, W) to unit coordinates (B, C, H, W), differentiable."""
        if variables.ndim != 4:
            return super().decode(variables)
        down, across, scale = self._basis(variables)
        return self.center + down.T @ (scale * variables) @ across

    def encode(self, unit: Tensor) -> Tensor:
        """The inverse of `decode`."""
        if unit.ndim != 4:
            return super().encode(unit)
        down, across, scale = self._basis(unit)
        return down @ (unit - self.center) @ across.T / scale

    def _basis(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Cosines down and across, and the scale of each coefficient."""
        down, across = (cosines(side).to(like) for side in like.shape[-2:])
        rows, columns = (torch.arange(side).to(like) for side in like.shape[-2:])
        return down, across, self.spread / (1 + torch.hypot(rows[:, None], columns))


@dataclass(frozen=True, kw_only=True, eq=False)
class WarmStart(Parametrization):
    """The variables of `base`, which start from an earlier reconstruction instead of noise.

    Args:
        base: The parametrization.
        initial: Where the descent starts: examples (B, *shape) in unit coordinates.
    """

    base: Parametrization
    initial: Tensor = field(repr=False)

    def shape(self, observation: Observation) -> tuple[int, ...]:
        return self.base.shape(observation)

    def start(self, observation: Observation, generator: torch.Generator) -> Tensor:
        """Return the variables that decode to `initial`."""
        like = observation.update.like
        return self.base.encode(self.initial.to(like))

    def decode(self, variables: Tensor) -> Tensor:
        return self.base.decode(variables)

    def encode(self, unit: Tensor) -> Tensor:
        return self.base.encode(unit)

    def project(self, variables: Tensor) -> None:
        self.base.project(variables)


def cosines(size: int) -> Tensor:
    """The orthonormal cosine transform of `size` values (DCT-II), a frequency a row, in float64."""
    places, frequencies = torch.arange(size, dtype=torch.float64), torch.arange(size)
    rows = torch.cos(math.pi / size * frequencies[:, None] * (places + 0.5))
    matrix: Tensor = rows / rows.norm(dim=1, keepdim=True)
    return matrix
