"""Learned perceptual image patch similarity (LPIPS), with SqueezeNet 1.1."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from leakgauge.core import DataError
from leakgauge.metrics.pairs import are_finite, as_images
from leakgauge.metrics.squeezenet import WIDTHS, SqueezeNet

LPIPS_SIDE = 32
"""Least pixels a side. At 32, four of the seven depths see one place. The weights were learned at 64."""

# The mean and deviation of ImageNet, on which the backbone was trained.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_EPSILON = 1e-10


class Heads(nn.Module):
    """The learned weights of LPIPS at each depth.

    Tensors have the names of the authors' files, version 0.1.

    References:
        Zhang, Isola, Efros, Shechtman, Wang. The Unreasonable Effectiveness of Deep Features as a
        Perceptual Metric. CVPR 2018. arXiv:1801.03924.

    Example:
        >>> import leakgauge as lg
        >>> [len(weights) for weights in lg.metrics.Heads().weights]
        [64, 128, 256, 384, 384, 512, 512]
    """

    def __init__(self) -> None:
        super().__init__()
        for i, width in enumerate(WIDTHS):
            weigh = nn.Conv2d(width, 1, 1, bias=False)
            # The first of the two modules is dropout in training, and has no tensors.
            self.add_module(
                f"lin{i}", nn.ModuleDict({"model": nn.Sequential(nn.Identity(), weigh)})
            )

    @property
    def weights(self) -> list[Tensor]:
        """The weights (channels,) of each depth."""
        return [parameter.detach().flatten() for parameter in self.parameters()]


class LpipsSqueeze:
    r"""Compute the learned perceptual image patch similarity (LPIPS) of each image, with SqueezeNet 1.1.

    .. math::

        d(x, \hat x) = \sum_l \frac{1}{H_l W_l} \sum_{h, w} \left\| \sqrt{w_l} \odot
        (f_l(x)_{hw} - f_l(\hat x)_{hw}) \right\|_2^2

    Here :math:`x` is an original and :math:`\hat x` its reconstruction. The activations :math:`f_l`
    at depth :math:`l` are scaled to length 1 over the channels at each place, and :math:`w_l \ge 0`
    are learned weights.

    The value is from 0 to `ceiling`. Lower values mean that more has leaked. No pair exceeds the
    ceiling, and a reconstruction that is not finite gets it. Images need 1 or 3 channels and at
    least 32 pixels a side. A single channel is repeated three times. Images are not resized, as in
    the authors' code. Each example is computed alone in float64, so that its value does not depend
    on the batch.

    `leakgauge.models.lpips_squeeze` finds the weights.

    Args:
        backbone: SqueezeNet with the weights of its training on ImageNet.
        heads: The learned weights.

    References:
        Zhang, Isola, Efros, Shechtman, Wang. The Unreasonable Effectiveness of Deep Features as a
        Perceptual Metric. CVPR 2018, equation 1. arXiv:1801.03924.

    Example:
        >>> import leakgauge as lg
        >>> import torch
        >>> lpips = lg.metrics.LpipsSqueeze(lg.metrics.SqueezeNet(), lg.metrics.Heads())
        >>> images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        >>> lpips(images, images)
        tensor([0.], dtype=torch.float64)
    """

    def __init__(self, backbone: SqueezeNet, heads: Heads) -> None:
        self.backbone = backbone.double().eval()
        self.heads = heads.double().eval()
        # Unit vectors without a negative entry differ by at most 2 in squared length.
        self.ceiling = sum(2 * float(w.max()) for w in self.heads.weights)

    @torch.no_grad()
    def __call__(self, truth: Tensor, guess: Tensor) -> Tensor:
        """Compute the distance of each example.

        Args:
            truth: Originals `(B, C, H, W)` in [0, 1]. They must be finite.
            guess: Reconstructions of the same shape. They are clamped to [0, 1] first.

        Returns:
            The values (B,), from 0 to `ceiling`.

        Raises:
            DataError: The images are too small or have another number of channels, the shapes
                differ, or an original is not finite.
        """
        truth, guess = as_images(truth, guess, "lpips_squeeze")
        check_images(truth)
        values = torch.full((len(truth),), self.ceiling, dtype=torch.float64)
        for i in are_finite(guess).nonzero().flatten().tolist():
            values[i] = self._one(truth[i], guess[i])
        return values

    def _one(self, truth: Tensor, guess: Tensor) -> Tensor:
        """Return the distance of two images (C, H, W)."""
        value = torch.zeros((), dtype=torch.float64)
        activations = self.backbone(_normalized(torch.stack([truth, guess])))
        for activation, weights in zip(activations, self.heads.weights, strict=True):
            lengths = activation.square().sum(1, keepdim=True).sqrt()
            x, y = activation / (lengths + _EPSILON)
            value += (weights[:, None, None] * (x - y).square()).sum(0).mean()
        return value

    @torch.no_grad()
    def embed(self, inputs: Tensor) -> Tensor:
        """Return the features by which `identified` compares: the last activations, averaged over places (N, 512).

        Args:
            inputs: Finite images (N, C, H, W). They are clamped to [0, 1] first.

        Raises:
            DataError: The images are too small or have another number of channels.
        """
        check_images(inputs)
        rows = [self.backbone(_normalized(x[None].double()))[-1].mean((2, 3)) for x in inputs]
        return torch.cat(rows)


def check_images(inputs: Tensor) -> None:
    """Raise DataError if LPIPS cannot read images (N, C, H, W)."""
    if inputs.shape[1] not in (1, 3) or min(inputs.shape[2:]) < LPIPS_SIDE:
        raise DataError(
            "metric 'lpips_squeeze'",
            expected=f"images of 1 or 3 channels and at least {LPIPS_SIDE} pixels a side",
            found=f"{inputs.shape[1]} channels of {inputs.shape[2]} x {inputs.shape[3]}",
            remedy="use ssim, because LPIPS of enlarged images would measure the enlargement",
        )


def _normalized(inputs: Tensor) -> Tensor:
    """Return images with 3 channels, normalized as SqueezeNet expects."""
    mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (_MEAN, _STD))
    return (inputs.clamp(0, 1).expand(-1, 3, -1, -1) - mean) / std
