"""Parametrizations: the variables that a descent moves, and the examples that they stand for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from leakgauge.core import Observation


@dataclass(frozen=True, kw_only=True)
class Direct:
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
        like = next(iter(observation.update.tensors.values()))
        shape = (observation.batch_size, *observation.domain.shape)
        return self.noise * torch.randn(shape, generator=generator, dtype=torch.float32).to(like)

    def decode(self, variables: Tensor) -> Tensor:
        """Variables (B, *shape) to unit coordinates (B, *shape), differentiable."""
        return self.center + self.spread * variables

    def project(self, variables: Tensor) -> None:
        """Move the variables, in place, to the nearest ones that the box allows."""
        if self.box:
            variables.clamp_(-self.center / self.spread, (1 - self.center) / self.spread)
