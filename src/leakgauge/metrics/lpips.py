"""Learned perceptual image patch similarity (Zhang et al. 2018), on SqueezeNet 1.1.

d(x, y) = sum_l mean_hw || sqrt(w_l) * (f_l(x) - f_l(y)) ||^2, equation 1 of the paper: f_l the
activations at depth l, each place's scaled to length 1 over its channels, w_l >= 0 learned.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from leakgauge.core import DataError
from leakgauge.metrics.pairs import images, usable
from leakgauge.metrics.squeezenet import WIDTHS, SqueezeNet

LPIPS_SIDE = 32
"""Least pixels a side: there four of the seven depths see one place; the weights were learned at 64."""

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, as the backbone's training
_EPSILON = 1e-10


class Heads(nn.Module):
    """The learned weights of each depth, named as the authors' files (version 0.1) name them."""

    def __init__(self) -> None:
        super().__init__()
        for i, width in enumerate(WIDTHS):
            weigh = nn.Conv2d(width, 1, 1, bias=False)
            # The first of two, dropout in training, has no tensors.
            self.add_module(
                f"lin{i}", nn.ModuleDict({"model": nn.Sequential(nn.Identity(), weigh)})
            )

    @property
    def weights(self) -> list[Tensor]:
        """One (channels,) for each depth."""
        return [parameter.detach().flatten() for parameter in self.parameters()]


class LpipsSqueeze:
    """LPIPS by SqueezeNet 1.1 and learned weights: images (B, C, H, W) in [0, 1] twice to (B,), 0 for equals.

    Reads images (B, C, H, W) of 1 (repeated to 3) or 3 channels and at least LPIPS_SIDE pixels a
    side, at their own size: the authors' code does not resize either. Computed in float64, one
    example at a time, so that a value does not depend on the batch. `ceiling` is a bound that no
    pair exceeds, and the score of a guess that is not finite. `models.lpips_squeeze` finds weights.
    """

    def __init__(self, backbone: SqueezeNet, heads: Heads) -> None:
        self.backbone = backbone.double().eval()
        self.heads = heads.double().eval()
        # Unit vectors without a negative entry differ by at most 2 in squared length.
        self.ceiling = sum(2 * float(w.max()) for w in self.heads.weights)

    @torch.no_grad()
    def __call__(self, truth: Tensor, guess: Tensor) -> Tensor:
        """Distances (B,), from 0 to `ceiling`. The guess is clamped to [0, 1] first.

        Raises DataError for images that are too small or have other channels, and as `ssim` does.
        """
        truth, guess = images(truth, guess, "lpips_squeeze")
        check_images(truth)
        values = torch.full((len(truth),), self.ceiling, dtype=torch.float64)
        for i in usable(guess).nonzero().flatten().tolist():
            values[i] = self._one(truth[i], guess[i])
        return values

    def _one(self, truth: Tensor, guess: Tensor) -> Tensor:
        value = torch.zeros((), dtype=torch.float64)
        activations = self.backbone(_normalized(torch.stack([truth, guess])))
        for activation, weights in zip(activations, self.heads.weights, strict=True):
            lengths = activation.square().sum(1, keepdim=True).sqrt()
            x, y = activation / (lengths + _EPSILON)
            value += (weights[:, None, None] * (x - y).square()).sum(0).mean()
        return value

    @torch.no_grad()
    def embed(self, inputs: Tensor) -> Tensor:
        """What `identified` compares by: the last activations' means over places, (N, 512).

        inputs: finite images (N, C, H, W), clamped to [0, 1] first. Raises DataError for images that
        are too small or have other channels.
        """
        check_images(inputs)
        rows = [self.backbone(_normalized(x[None].double()))[-1].mean((2, 3)) for x in inputs]
        return torch.cat(rows)


def check_images(inputs: Tensor) -> None:
    """Raise DataError for images (N, C, H, W) that LPIPS does not read."""
    if inputs.shape[1] not in (1, 3) or min(inputs.shape[2:]) < LPIPS_SIDE:
        raise DataError(
            "metric 'lpips_squeeze'",
            expected=f"images of 1 or 3 channels and at least {LPIPS_SIDE} pixels a side",
            found=f"{inputs.shape[1]} channels of {inputs.shape[2]} x {inputs.shape[3]}",
            remedy="use ssim; enlarging would measure the enlargement",
        )


def _normalized(inputs: Tensor) -> Tensor:
    mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (_MEAN, _STD))
    return (inputs.clamp(0, 1).expand(-1, 3, -1, -1) - mean) / std
