"""The deep image prior: the weights of an untrained convolutional generator are the variables.

    x_i = sigmoid(G_w_i(z))        z: fixed noise, the same for every example; w_i: the variables of example i

Ulyanov, Vedaldi, Lempitsky: Deep Image Prior, CVPR 2018: such a network learns what images have in common
sooner than it learns noise. As in the decoder half of theirs, each level doubles the sides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, leaky_relu, pad

from leakgauge.core import Observation, Seeds
from leakgauge.inversion.variables.parametrization import Parametrization

EPSILON = 1e-5
"""Below it a channel's variance is none."""
COARSEST = 4
SLOPE = 0.2
"""Of a leaky ReLU below zero."""


@dataclass(frozen=True, kw_only=True)
class DeepPrior(Parametrization):
    """A generator an example: up to `levels` of upsampling, each a 3 x 3 convolution of `width` channels.

    image: (C, H, W), of any size: the generator's sides are multiples of 2^depth, of which the middle is cut
    out. Each channel is normalized by its own mean and variance over the image, so that an example's weights
    alone decide what it is. Values are in (0, 1). `noise` is z (1, width, h, w), uniform about 0.
    """

    image: tuple[int, int, int]
    width: int = 32
    levels: int = 3
    noise: Tensor = field(init=False, repr=False, compare=False)

    invertible: ClassVar[bool] = False

    def __post_init__(self) -> None:
        sides = (math.ceil(side / 2**self.depth) for side in self.image[1:])
        # Part of the architecture: the same on every run, for every example and restart.
        generator = Seeds(0).generator("deep prior/noise")
        drawn = torch.rand((1, self.width, *sides), generator=generator) - 0.5
        object.__setattr__(self, "noise", drawn)

    @property
    def depth(self) -> int:
        """Levels that leave at least COARSEST pixels a side: of fewer, normalization would leave nothing."""
        fitting = [k for k in range(self.levels + 1) if min(self.image[1:]) >= COARSEST * 2**k]
        return max(fitting, default=0)

    @property
    def tensors(self) -> list[tuple[int, ...]]:
        """Shapes of one generator's tensors: of each level kernel, gain and shift; then the last kernel and shift."""
        level = [(self.width, self.width, 3, 3), (self.width,), (self.width,)]
        last = [(self.image[0], self.width, 1, 1), (self.image[0],)]
        return [*level * (self.depth + 1), *last]

    @property
    def size(self) -> int:
        """Weights of one generator."""
        return sum(math.prod(shape) for shape in self.tensors)

    def shape(self, observation: Observation) -> tuple[int, ...]:
        return (observation.batch_size, self.size)

    def start(self, observation: Observation, generator: torch.Generator) -> Tensor:
        """Weights (B, P): kernels from N(0, 2 / fan in), gains 1, shifts 0."""
        like = observation.update.like
        batch, parts = observation.batch_size, list[Tensor]()
        for place, shape in enumerate(self.tensors):
            drawn = torch.randn((batch, math.prod(shape)), generator=generator)
            scale = math.sqrt(2 / math.prod(shape[1:]))
            gain = place % 3 == 1 and place < len(self.tensors) - 2
            parts.append(scale * drawn if len(shape) == 4 else torch.full_like(drawn, float(gain)))
        return torch.cat(parts, dim=1).to(like)

    def decode(self, variables: Tensor) -> Tensor:
        """Weights (B, P) to unit coordinates (B, C, H, W), differentiable."""
        noise = self.noise.to(variables)
        unit: Tensor = torch.func.vmap(lambda weights: self.generated(weights, noise))(variables)
        return unit

    def generated(self, weights: Tensor, noise: Tensor) -> Tensor:
        """The image (C, H, W) of one generator's weights (P,)."""
        shapes = self.tensors
        pieces = torch.split(weights, [math.prod(shape) for shape in shapes])
        tensors = [piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)]
        x = noise
        for level in range(self.depth + 1):
            kernel, gain, shift = tensors[3 * level : 3 * level + 3]
            if level > 0:
                x = interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = conv2d(pad(x, (1, 1, 1, 1), mode="replicate"), kernel)
            x = leaky_relu(normalized(x) * gain[:, None, None] + shift[:, None, None], SLOPE)
        image: Tensor = conv2d(x, tensors[-2], tensors[-1]).sigmoid()[0]
        top, left = ((g - s) // 2 for g, s in zip(image.shape[1:], self.image[1:], strict=True))
        return image[:, top : top + self.image[1], left : left + self.image[2]]


def normalized(x: Tensor) -> Tensor:
    """Features (1, C, h, w), each channel of mean 0 and variance 1."""
    centered = x - x.mean((2, 3), keepdim=True)
    return centered * (centered.square().mean((2, 3), keepdim=True) + EPSILON).rsqrt()
