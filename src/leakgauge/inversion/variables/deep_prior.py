"""The deep image prior: the weights of an untrained convolutional generator are the variables."""

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
"""Added to each channel's variance before the division."""
COARSEST = 4
"""Fewest pixels a side at the coarsest level."""
SLOPE = 0.2
"""Slope of the leaky ReLU below zero."""


@dataclass(frozen=True, kw_only=True)
class DeepPrior(Parametrization):
    r"""Variables are the weights of an untrained convolutional generator, one generator for each image.

    .. math::

        x_i = \operatorname{sigmoid}(G_{w_i}(z))

    Here :math:`w_i` are the variables of image :math:`i`, and :math:`z` is fixed noise, the same
    for all images. An untrained network fits the structure of natural images sooner than it fits
    noise.

    Each level doubles the sides, as in the decoder half of the paper's network. Then it applies a 3
    x 3 convolution, a normalization and a leaky ReLU. The normalization uses each channel's own
    mean and variance over the image, so an image depends on its own weights alone. The values are
    in (0, 1). The map has no inverse, so second-order descents and groups of restarts are not
    applicable.

    Args:
        image: Shape (C, H, W) of an image, of any size. The generator's sides are multiples of 2 to
            the depth, and the middle is cut out.
        width: Channels of each level, at least 1.
        levels: Most levels of upsampling, at least 0. Small images use fewer: each level needs at
            least 4 pixels a side.

    References:
        Ulyanov, Vedaldi, Lempitsky. Deep Image Prior. CVPR 2018. arXiv:1711.10925.

    Example:
        >>> import leakgauge as lg
        >>> import torch
        >>> from leakgauge.inversion import DeepPrior
        >>> prior = DeepPrior(image=(1, 8, 8), width=4)
        >>> weights = prior.start(lg.examples.observation(batch_size=2), torch.Generator())
        >>> prior.decode(weights).shape
        torch.Size([2, 1, 8, 8])
    """

    image: tuple[int, int, int]
    width: int = 32
    levels: int = 3
    noise: Tensor = field(init=False, repr=False, compare=False)
    """The noise z (1, width, h, w), uniform in [-0.5, 0.5)."""

    invertible: ClassVar[bool] = False

    def __post_init__(self) -> None:
        sides = (math.ceil(side / 2**self.depth) for side in self.image[1:])
        # The noise is part of the architecture: it is the same in every run, for every image and restart.
        generator = Seeds(0).generator("deep prior/noise")
        drawn = torch.rand((1, self.width, *sides), generator=generator) - 0.5
        object.__setattr__(self, "noise", drawn)

    @property
    def depth(self) -> int:
        """Number of levels that are used. Each leaves at least COARSEST pixels a side.

        On fewer pixels, the normalization would remove all information.
        """
        fitting = [k for k in range(self.levels + 1) if min(self.image[1:]) >= COARSEST * 2**k]
        return max(fitting, default=0)

    @property
    def tensors(self) -> list[tuple[int, ...]]:
        """Shapes of one generator's tensors: kernel, gain and shift of each level, then the last kernel and shift."""
        level = [(self.width, self.width, 3, 3), (self.width,), (self.width,)]
        last = [(self.image[0], self.width, 1, 1), (self.image[0],)]
        return [*level * (self.depth + 1), *last]

    @property
    def size(self) -> int:
        """Number of weights of one generator."""
        return sum(math.prod(shape) for shape in self.tensors)

    def shape(self, observation: Observation) -> tuple[int, ...]:
        return (observation.batch_size, self.size)

    def start(self, observation: Observation, generator: torch.Generator) -> Tensor:
        """Return weights (B, P): kernels from N(0, 2 / fan in), gains 1 and shifts 0."""
        like = observation.update.like
        batch, parts = observation.batch_size, list[Tensor]()
        for place, shape in enumerate(self.tensors):
            drawn = torch.randn((batch, math.prod(shape)), generator=generator)
            scale = math.sqrt(2 / math.prod(shape[1:]))
            gain = place % 3 == 1 and place < len(self.tensors) - 2
            parts.append(scale * drawn if len(shape) == 4 else torch.full_like(drawn, float(gain)))
        return torch.cat(parts, dim=1).to(like)

    def decode(self, variables: Tensor) -> Tensor:
        """Return images (B, C, H, W) in unit coordinates of weights (B, P). The map is differentiable."""
        noise = self.noise.to(variables)
        unit: Tensor = torch.func.vmap(lambda weights: self.generate(weights, noise))(variables)
        return unit

    def generate(self, weights: Tensor, noise: Tensor) -> Tensor:
        """Return the image (C, H, W) of one generator's weights (P,)."""
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
    """Return features (1, C, h, w) with mean 0 and variance 1 in each channel."""
    centered = x - x.mean((2, 3), keepdim=True)
    return centered * (centered.square().mean((2, 3), keepdim=True) + EPSILON).rsqrt()
