"""Restoration of changed images, with a smoothness prior for lost pixels and typical statistics of photographs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

Map = Callable[[Tensor], Tensor]
"""A differentiable map from images (B, C, H, W) to images (B, C, H, W), in unit coordinates."""

TYPICAL = ((0.42, 0.16), (-1.8, 0.5), (-0.3, 1.7), (0.27, 0.07))
"""Mean and deviation of each of the `statistics`, over photographs of scikit-image and scikit-learn at 32 x 32."""
FLOOR = 1e-3
"""Smallest contrast, slope and sharpness. It keeps logarithms and quotients finite on flat images."""
REACHED = 0.1
"""Slope of the map above which a pixel counts as seen. Other pixels start at the mean of their image."""


def restore(observed: Tensor, forward: Map, *, weight: float, steps: int) -> Tensor:
    r"""Return the smoothest images (B, C, H, W) that a map turns into the observed images.

    The images are in float64, and in or near [0, 1].

    .. math::

        &\min_x \; \frac{\|T(x) - \tilde x\|^2}{n} + \frac{\mathrm{distance}(x, [0, 1]^n)^2}{n} + w \, p(x) \\
        &p(x) = \frac{\|\nabla x\|^2 + 2 \, \|\Delta x\|^2}{n}

    Here :math:`T` is `forward`, :math:`\tilde x` is `observed`, :math:`w` is `weight`, :math:`n` is
    the number of values of an image, and :math:`\Delta` is the Laplacian. L-BFGS minimizes it.

    This prior was compared on CIFAR-10's training images with erased pixels and patches. The others
    were gradient, Laplacian and total variation, each with and without more weight on color. This
    prior came nearest to the originals, or within 0.2 dB of the nearest.

    Args:
        observed: The changed images (B, C, H, W) in unit coordinates.
        forward: The map T.
        weight: Weight w of smoothness against the mean squared error, above 0. A small weight keeps
            the observed pixels.
        steps: Largest number of L-BFGS iterations.
    """
    target = observed.detach().double()
    found = carry_back(target, forward)[0].requires_grad_()
    descent = torch.optim.LBFGS(
        [found],
        max_iter=steps,
        history_size=20,
        line_search_fn="strong_wolfe",
        tolerance_grad=1e-12,
        tolerance_change=1e-14,
    )

    def closure() -> Tensor:
        descent.zero_grad()
        with torch.enable_grad():
            error = mean_square(forward(found) - target) + out_of_range(found)
            # L-BFGS stops by absolute sizes. So the error, which must become small, is scaled up by
            # 1 / weight.
            value = (error / weight + roughness(found)).sum()
            value.backward()  # type: ignore[no-untyped-call]
        return value.detach()

    descent.step(closure)  # type: ignore[no-untyped-call]
    return found.detach()


def carry_back(observed: Tensor, forward: Map) -> tuple[Tensor, Tensor]:
    """Return a first estimate of the originals, and a mask of the pixels that the observed images show.

    The derivative of `forward` carries each observed value back to the pixels that it came from. A
    pixel of the estimate is the mean of the observed values to which it contributes. If it
    contributes to none, it is the mean of its image.

    Args:
        observed: The changed images (B, C, H, W).
        forward: The map that changed them.

    Returns:
        The estimate (B, C, H, W), and the mask (B, 1, H, W), true for each pixel that is seen.
    """
    leaf = observed.detach().clone().requires_grad_()
    with torch.enable_grad():
        there = forward(leaf)
        slopes, values = (
            torch.autograd.grad(there, leaf, grad_outputs=one, retain_graph=True)[0]
            for one in (torch.ones_like(there), observed.detach())
        )
    reached = slopes.abs().amax(1, keepdim=True) > REACHED
    usable = slopes.abs() > REACHED
    carried = values / torch.where(usable, slopes, torch.ones_like(slopes))
    seen = usable.to(carried)
    middle = (carried * seen).sum((2, 3), keepdim=True) / seen.sum((2, 3), keepdim=True).clamp_min(
        1
    )
    return torch.where(usable, carried, middle.clamp(0, 1)).detach(), reached


def mean_square(difference: Tensor) -> Tensor:
    """Return the mean squared difference (B,) of each image from differences (B, C, H, W)."""
    return difference.square().flatten(1).mean(1)


def out_of_range(images: Tensor) -> Tensor:
    """Return the mean squared distance (B,) of images (B, C, H, W) to [0, 1]."""
    return mean_square(images - images.clamp(0, 1))


def roughness(images: Tensor) -> Tensor:
    """Return the prior p(x) of `restore` for images (B, C, H, W), one value each (B,). Borders are repeated."""
    down, across = images.diff(dim=-2), images.diff(dim=-1)
    laplacian = pad(down, (0, 0, 0, 1)) - pad(down, (0, 0, 1, 0))
    laplacian = laplacian + pad(across, (0, 1)) - pad(across, (1, 0))
    energies = (down, 1.0), (across, 1.0), (laplacian, 2.0)
    total = sum(scale * part.square().flatten(1).sum(1) for part, scale in energies)
    return torch.as_tensor(total) / images[0].numel()


def statistics(images: Tensor, known: Tensor) -> Tensor:
    """Return four statistics (B, 4) of images (B, C, H, W).

    They are the brightness, the logarithm of contrast, the logarithm of color relative to contrast,
    and the logarithm of sharpness. Color has its typical value unless the images have three
    channels.

    Args:
        images: The images in unit coordinates.
        known: Mask (B, 1, H, W) of the pixels that count.
    """
    bright, mask = images.mean(1, keepdim=True), known.to(images)
    level = masked_mean(bright, mask)
    contrast = masked_mean((bright - level[:, None, None, None]).square(), mask).sqrt()
    contrast = contrast.clamp_min(FLOOR)
    slope, curve = bright.new_zeros(len(bright)), bright.new_zeros(len(bright))
    for axis in (-2, -1):
        pairs = mask.narrow(axis, 1, mask.shape[axis] - 1) * mask.narrow(
            axis, 0, mask.shape[axis] - 1
        )
        step = bright.diff(dim=axis)
        triples = pairs.narrow(axis, 1, pairs.shape[axis] - 1) * pairs.narrow(
            axis, 0, pairs.shape[axis] - 1
        )
        slope = slope + masked_mean(step.square(), pairs)
        curve = curve + masked_mean(step.diff(dim=axis).square(), triples)
    sharp = (curve.sqrt() / slope.sqrt().clamp_min(FLOOR)).clamp_min(FLOOR).log()
    color = torch.full_like(contrast, TYPICAL[2][0])
    if images.shape[1] == 3:
        red, green, blue = (images[:, i : i + 1] for i in range(3))
        energy = (red - blue).square() + (red - 2 * green + blue).square()
        color = ((masked_mean(energy, mask) / 2).sqrt() / contrast).clamp_min(10 * FLOOR).log()
    return torch.stack([level, contrast.log(), color, sharp], dim=1)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean (B,) of values (B, 1, H, W) over the pixels with mask 1."""
    return (values * mask).flatten(1).sum(1) / mask.flatten(1).sum(1).clamp_min(1)


def strangeness(images: Tensor, known: Tensor) -> Tensor:
    """Return how untypical images are, (B,): the negative logarithm of a Gaussian density of their statistics.

    The constant of the logarithm is left out.

    Args:
        images: The images (B, C, H, W) in unit coordinates.
        known: Mask (B, 1, H, W) of the pixels that count.
    """
    mean, deviation = images.new_tensor(TYPICAL).unbind(1)
    return ((statistics(images, known) - mean) / deviation).square().sum(1) / 2
