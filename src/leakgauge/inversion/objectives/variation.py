"""Total variation: priors that allow few edges. One term for each way to measure differences of pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

from leakgauge.core import Observation, image_grid
from leakgauge.inversion.objectives.objective import Candidate, Term

FLOOR = 1 / 512
"""Half an 8-bit level. Smaller differences of pixels count as zero."""

OPPONENT = ((1.0, 1.0, 1.0), (1.0, 0.0, -1.0), (1.0, -2.0, 1.0))
"""Orthogonal axes of the space of colors: brightness, red against blue, and both against green."""


class Variation(Term):
    """A total variation of images. A subclass defines its value and its reweighted residuals."""

    local: ClassVar[bool] = True

    def of(self, images: Tensor) -> Tensor:
        """Return the value for images (B, C, H, W), a scalar."""
        raise NotImplementedError

    def reweighted(self, images: Tensor) -> Tensor:
        """Return residuals `r` with fixed weights, so that `|r|^2` is the value.

        Differences below FLOOR count less.
        """
        raise NotImplementedError

    def inapplicable(self, observation: Observation) -> str | None:
        if image_grid(observation.domain) is None:
            return f"total variation is a prior on images, not on a {observation.domain.kind}: set tv = 0"
        return None

    def __call__(self, candidate: Candidate) -> Tensor:
        return self.of(candidate.unit)

    def residuals(self, candidate: Candidate) -> Tensor:
        """Return the reweighted residuals, for second-order descents."""
        return self.reweighted(candidate.unit)


@dataclass(frozen=True)
class TotalVariation(Variation):
    r"""Prior: images have few edges. The mean absolute difference of neighboring pixels, anisotropic.

    .. math::

        \operatorname{mean} | d_v | + \operatorname{mean} | d_h |

    Here :math:`d_v` and :math:`d_h` are the differences of vertical and of horizontal neighbors
    within each channel. It needs images (B, C, H, W) of any number of channels. It is the usual
    prior of gradient inversion.

    References:
        Rudin, Osher, Fatemi. Nonlinear Total Variation Based Noise Removal Algorithms. Physica D
        60, 1992.

    Example:
        >>> import torch
        >>> from leakgauge.inversion import Candidate, TotalVariation
        >>> edge = torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]])
        >>> TotalVariation()(Candidate(edge, torch.zeros(1), {}, {}))
        tensor(1.)
    """

    def of(self, images: Tensor) -> Tensor:
        return torch.stack([_mean(d.abs()) for d in differences(images)]).sum()

    def reweighted(self, images: Tensor) -> Tensor:
        """Return `d / sqrt(|d|)` with fixed `|d|`, so that the square is `|d|`. The floor is half an 8-bit level."""
        return torch.cat([_reweighted(d).flatten() for d in differences(images)])


@dataclass(frozen=True)
class IsotropicVariation(Variation):
    r"""Prior: images have few edges. The mean length of the image's gradient.

    .. math::

        \operatorname{mean} \left( \sqrt{d_v^2 + d_h^2 + f^2} - f \right)

    Here :math:`d_v` and :math:`d_h` are the differences of vertical and of horizontal neighbors
    within each channel. The floor :math:`f` is half an 8-bit level, 1/512. It makes the term smooth
    where the image is flat. On square images, an edge counts the same in every direction. It needs
    images (B, C, H, W) of any number of channels.

    References:
        Rudin, Osher, Fatemi. Nonlinear Total Variation Based Noise Removal Algorithms. Physica D
        60, 1992.

    Example:
        >>> import torch
        >>> from leakgauge.inversion import Candidate, IsotropicVariation
        >>> edge = torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]])
        >>> IsotropicVariation()(Candidate(edge, torch.zeros(1), {}, {}))
        tensor(0.9980)
    """

    def of(self, images: Tensor) -> Tensor:
        vertical, horizontal = _padded_differences(images)
        square = vertical.square() + horizontal.square()
        # The root minus the floor would lose digits where both are nearly equal.
        return (square / (_length(square) + FLOOR)).sum() / _places(images)

    def reweighted(self, images: Tensor) -> Tensor:
        vertical, horizontal = _padded_differences(images)
        held = _length((vertical.square() + horizontal.square()).detach()) + FLOOR
        weight = (held * _places(images)).rsqrt()
        return torch.cat([(d * weight).flatten() for d in (vertical, horizontal)])


@dataclass(frozen=True)
class ColorVariation(Variation):
    r"""Prior: images have few edges, and fewer in color than in brightness.

    .. math::

        \mathrm{TV}(\text{brightness}) + c_1 \, \mathrm{TV}(R - B) + c_2 \, \mathrm{TV}(R - 2G + B)

    Here TV is `TotalVariation`, and :math:`c` is `chroma`. The three axes are orthogonal, and have
    the same length. It needs images (B, 3, H, W), whose channels are taken to be red, green and
    blue. On a gray image the value is that of `TotalVariation`.

    The idea is double-opponent total variation. The orthogonal axes and the weights are ours.

    Args:
        chroma: Weights of the two color differences relative to brightness, at least 0. The
            defaults are ratios of amplitude in photographs, the roots of the ratios of energy in
            `Smoothness`.

    References:
        Åström, Schnörr. Double-Opponent Vectorial Total Variation. ECCV 2016.

    Example:
        >>> import torch
        >>> from leakgauge.inversion import Candidate, ColorVariation
        >>> gray_edge = torch.tensor([[0.0, 1.0], [0.0, 1.0]]).expand(1, 3, 2, 2)
        >>> round(float(ColorVariation()(Candidate(gray_edge, torch.zeros(1), {}, {}))), 3)
        1.0
    """

    chroma: tuple[float, float] = (4.0, 7.0)

    def inapplicable(self, observation: Observation) -> str | None:
        reason = super().inapplicable(observation)
        channels = observation.domain.shape[0]
        if reason is None and channels != len(OPPONENT):
            return f'color variation needs 3 channels, and the images have {channels}: set variation = "anisotropic"'
        return reason

    def of(self, images: Tensor) -> Tensor:
        return len(OPPONENT) * TotalVariation().of(self._weighted(images))

    def reweighted(self, images: Tensor) -> Tensor:
        return math.sqrt(len(OPPONENT)) * TotalVariation().reweighted(self._weighted(images))

    def _weighted(self, images: Tensor) -> Tensor:
        """Return the mean of the channels and two differences, on axes of one length, each times its weight."""
        return opponent(images, images.new_tensor((1.0, *self.chroma)) / math.sqrt(len(OPPONENT)))


VARIATIONS: dict[str, Variation] = {
    "anisotropic": TotalVariation(),
    "isotropic": IsotropicVariation(),
    "color": ColorVariation(),
}
"""The total variations by name."""
VariationName = Literal["anisotropic", "isotropic", "color"]
"""Values of the option `variation` of attacks."""


def opponent(images: Tensor, weights: Tensor) -> Tensor:
    """Return images (B, 3, H, W) on orthonormal axes of brightness and two color differences, times weights (3,)."""
    axes = normalize(images.new_tensor(OPPONENT), dim=1)
    return torch.einsum("kc,bchw->bkhw", weights[:, None] * axes, images)


def differences(unit: Tensor) -> tuple[Tensor, Tensor]:
    """Return the differences of vertical and of horizontal neighbors of images (..., H, W)."""
    return unit[..., 1:, :] - unit[..., :-1, :], unit[..., :, 1:] - unit[..., :, :-1]


def _padded_differences(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return both differences at each pixel, with 0 across the last border."""
    vertical, horizontal = differences(images)
    return pad(vertical, (0, 0, 0, 1)), pad(horizontal, (0, 1))


def _places(images: Tensor) -> int:
    """Return the number of differences in the direction that has more, by which the sum is divided.

    So a straight edge has the same value as in anisotropic variation.
    """
    return max(1, *(d.numel() for d in differences(images)))


def _length(square: Tensor) -> Tensor:
    """Return `sqrt(s^2 + f^2)`, with FLOOR for f."""
    return (square + FLOOR**2).sqrt()


def _reweighted(difference: Tensor) -> Tensor:
    """Return the difference over the root of its fixed size."""
    held = difference.detach().abs().clamp_min(FLOOR)
    return difference / (held * max(1, difference.numel())).sqrt()


def _mean(values: Tensor) -> Tensor:
    """Return the mean, or 0 if there are no values: an image one pixel wide has no neighbors."""
    return values.sum() / max(1, values.numel())
