"""Parametrizations: the variables that a descent moves, and the examples that they stand for."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from leakgauge.core import ModelError, Observation, unit_shape


class Parametrization:
    """A map from variables, which a descent moves, to examples. Base class.

    A subclass defines `start` and `decode`, and `encode` if the map has an inverse. Then the class
    attribute `invertible` is True. An invertible map lets a search start from an earlier
    reconstruction and hold its restarts together. It also lets the rank of the Jacobian be counted
    in the variables.

    Example:
        >>> import torch
        >>> from leakgauge.inversion import Parametrization
        >>> class Squashed(Parametrization):
        ...     invertible = False
        ...     def start(self, observation, generator):
        ...         return torch.randn(self.shape(observation), generator=generator)
        ...     def decode(self, variables):
        ...         return variables.sigmoid()
        >>> Squashed().decode(torch.zeros(2))
        tensor([0.5000, 0.5000])
    """

    invertible: ClassVar[bool] = True

    def shape(self, observation: Observation) -> tuple[int, ...]:
        """Return the shape of the variables (B, ...), with one row for each example."""
        return (observation.batch_size, *unit_shape(observation.domain))

    def start(self, observation: Observation, generator: torch.Generator) -> Tensor:
        """Return variables (B, ...), drawn from `generator`."""
        raise NotImplementedError

    def decode(self, variables: Tensor) -> Tensor:
        r"""Return the examples (B, \*shape) in unit coordinates of variables (B, ...). The map is differentiable."""
        raise NotImplementedError

    def encode(self, unit: Tensor) -> Tensor:
        """Return the variables that decode to these examples.

        Raises:
            ModelError: The map has no inverse.
        """
        raise ModelError(
            "start from an earlier reconstruction",
            expected="a parametrization with an inverse",
            found=repr(self),
            remedy="choose one with an inverse, such as Direct, or start from noise",
        )

    def project(self, variables: Tensor) -> None:
        """Move the variables, in place, to the nearest allowed ones."""


@dataclass(frozen=True, kw_only=True)
class Direct(Parametrization):
    r"""Variables are the values of the examples, shifted and scaled.

    .. math::

        x = \mathrm{center} + \mathrm{spread} \cdot v, \qquad v_0 \sim \mathrm{noise} \cdot \mathcal{N}(0, 1)

    Here :math:`x` are the examples in unit coordinates, and :math:`v_0` the variables at the start.
    On images with center 0 and spread 1, the variables are the pixels.

    Args:
        center: Value of an example, in unit coordinates, where the variables are 0.
        spread: Change of an example, in unit coordinates, for one unit of the variables, above 0.
        noise: Standard deviation of the variables at the start, at least 0.
        box: Whether each step keeps the examples in [0, 1].

    Example:
        >>> import torch
        >>> from leakgauge.inversion import Direct
        >>> Direct(center=0.5, spread=0.25).decode(torch.tensor([[-1.0, 0.0, 1.0]]))
        tensor([[0.2500, 0.5000, 0.7500]])
    """

    center: float = 0.0
    spread: float = 1.0
    noise: float = 1.0
    box: bool = False

    def start(self, observation: Observation, generator: torch.Generator) -> Tensor:
        r"""Return variables (B, \*shape), drawn from `generator`."""
        like = observation.update.like
        shape = self.shape(observation)
        return self.noise * torch.randn(shape, generator=generator, dtype=torch.float32).to(like)

    def decode(self, variables: Tensor) -> Tensor:
        r"""Return the examples (B, \*shape) in unit coordinates. The map is differentiable."""
        return self.center + self.spread * variables

    def encode(self, unit: Tensor) -> Tensor:
        """Return the variables that decode to these examples."""
        return (unit - self.center) / self.spread

    def project(self, variables: Tensor) -> None:
        """Move the variables, in place, to the nearest ones whose examples are in the box."""
        if self.box:
            variables.clamp_(-self.center / self.spread, (1 - self.center) / self.spread)


@dataclass(frozen=True, kw_only=True)
class Spectral(Direct):
    r"""Variables are the coefficients of each channel's discrete cosine transform.

    .. math::

        x = \mathrm{center} + D_H^\top \left( \frac{\mathrm{spread}}{1 + |f|} \, v \right) D_W

    Here :math:`x` are the images in unit coordinates, :math:`D` the orthonormal cosine transforms
    (DCT-II) of columns and rows, and :math:`|f|` the frequency of each coefficient. Natural images
    have a spectrum of this form. So all variables have a similar size, and a descent treats all
    frequencies in the same way.

    Examples that are not images (C, H, W) are handled as in `Direct`.

    Args:
        center: Value of an image, in unit coordinates, where the variables are 0.
        spread: Scale of the coefficient at frequency 0, above 0.
        noise: Standard deviation of the variables at the start, at least 0.
        box: Must be False: a box bounds values, not coefficients. Use the prior `InRange`.

    Raises:
        ValueError: `box` is True.

    References:
        Field. Relations between the Statistics of Natural Images and the Response Properties of
        Cortical Cells. Journal of the Optical Society of America A 4, 1987.

    Example:
        >>> import torch
        >>> from leakgauge.inversion import Spectral
        >>> gray = Spectral(center=0.5).decode(torch.zeros(1, 1, 2, 2))
        >>> gray.unique()
        tensor([0.5000])
    """

    spread: float = 2.0

    def __post_init__(self) -> None:
        if self.box:
            raise ValueError(
                "box must be False, since it would bound coefficients, not values: use the prior InRange"
            )

    def decode(self, variables: Tensor) -> Tensor:
        """Return images (B, C, H, W) in unit coordinates of coefficients (B, C, H, W). The map is differentiable."""
        if variables.ndim != 4:
            return super().decode(variables)
        down, across, scale = self._basis(variables)
        return self.center + down.T @ (scale * variables) @ across

    def encode(self, unit: Tensor) -> Tensor:
        """Return the coefficients that decode to these images."""
        if unit.ndim != 4:
            return super().encode(unit)
        down, across, scale = self._basis(unit)
        return down @ (unit - self.center) @ across.T / scale

    def _basis(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the cosines of columns and of rows, and the scale of each coefficient."""
        down, across = (cosines(side).to(like) for side in like.shape[-2:])
        rows, columns = (torch.arange(side).to(like) for side in like.shape[-2:])
        return down, across, self.spread / (1 + torch.hypot(rows[:, None], columns))


@dataclass(frozen=True, kw_only=True, eq=False)
class WarmStart(Parametrization):
    r"""The variables of another parametrization, started from an earlier reconstruction.

    Use it for a second search, or to refine what an attack in closed form found.

    Args:
        base: The parametrization, which must be invertible.
        initial: Where the descent starts: examples (B, \*shape) in unit coordinates.

    Example:
        >>> import leakgauge as lg
        >>> import torch
        >>> from leakgauge.inversion import Direct, WarmStart
        >>> observation = lg.examples.observation(batch_size=1)
        >>> start = WarmStart(base=Direct(center=0.5), initial=torch.full((1, 1, 8, 8), 0.75))
        >>> start.start(observation, torch.Generator()).unique()
        tensor([0.2500])
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
    """Return the orthonormal cosine transform (DCT-II) of `size` values, one frequency in each row, in float64."""
    places, frequencies = torch.arange(size, dtype=torch.float64), torch.arange(size)
    rows = torch.cos(math.pi / size * frequencies[:, None] * (places + 0.5))
    matrix: Tensor = rows / rows.norm(dim=1, keepdim=True)
    return matrix
