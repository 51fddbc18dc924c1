"""Gradient matching against defenses that erase squares of images."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from leakgauge.attacks.mending import plan_mended
from leakgauge.attacks.recipe import Recipe
from leakgauge.attacks.restoration import restore
from leakgauge.attacks.second_order import SecondOrder
from leakgauge.core import (
    BaseAttack,
    Domain,
    ErasedPatches,
    Inapplicable,
    Observation,
    Plan,
    effect,
    image_grid,
)
from leakgauge.core.ranges import Count, Positive

DEFAULT = SecondOrder()


@dataclass(frozen=True, kw_only=True)
class Inpainting(BaseAttack):
    r"""Reconstruct images with erased squares, then fill the squares smoothly from their surroundings.

    Use it against a known defense that erases parts of images, such as `PixelDropout`. The update
    does not contain the erased pixels. So an attack on one round can only estimate them from their
    neighbors.

    .. math::

        \min_x \; \frac{1}{w \, n} \Big( \sum_{k \notin E} (x_k - \tilde x_k)^2
        + \mathrm{distance}(x, [0, 1]^n)^2 \Big) + p(x)

    Here :math:`\tilde x` is the reconstruction of `attack`, which does not know the erased squares.
    The defense grants the number of erased squares and their fill value. The set :math:`E` consists
    of this number of squares, those nearest to the fill value. The prior :math:`p` is smoothness,
    :math:`w` is `weight`, and :math:`n` is the number of values of an image. Pixels outside
    :math:`E` stay as `attack` found them.

    A part of the image that has the color of the fill may count as erased. It is then filled with
    about the same color.

    Args:
        attack: The gradient matching that reconstructs the images. The default is `SecondOrder`.
        weight: Weight of smoothness, above 0, beside the mean squared error of the kept pixels. The
            default is ours.
        steps: Number of steps of L-BFGS that fill the squares, at least 1. The default is ours.

    References:
        Ours. We know of no publication.

    Example:
        >>> import leakgauge as lg
        >>> defense = lg.defenses.PixelDropout(fraction=0.3)
        >>> observation = lg.examples.observation(batch_size=1, defense=defense)
        >>> quick = lg.attacks.InvertingGradients(steps=20)
        >>> attack = lg.attacks.Inpainting(attack=quick, steps=20)
        >>> attack(observation, seeds=lg.Seeds(0)).notes[-1]
        'inpainting: 30% of each image counts as erased, and was filled in'
    """

    attack: Recipe = DEFAULT
    weight: Positive = 1e-4
    steps: Count = 300

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"batch_size", "defense"})

    def prepare(self, observation: Observation) -> Plan | Inapplicable:
        patches = effect(observation, ErasedPatches)
        if patches is None:
            return Inapplicable("the known defense erases no part of images")
        if image_grid(observation.domain) is None:
            return Inapplicable(f"needs images to fill in, not a {observation.domain.kind}")
        return plan_mended(
            self.attack, observation, partial(self.fill, observation.domain, patches)
        )

    def fill(self, domain: Domain, patches: ErasedPatches, inputs: Tensor) -> tuple[Tensor, str]:
        """Return images (B, C, H, W) in data units with the erased squares filled, and a note."""
        lost = find_erased(inputs, patches)
        unit = fill_erased(domain.to_unit(inputs), lost, weight=self.weight, steps=self.steps)
        fraction = float(lost.double().mean())
        note = f"inpainting: {fraction:.0%} of each image counts as erased, and was filled in"
        return domain.from_unit(unit), note


def find_erased(images: Tensor, patches: ErasedPatches) -> Tensor:
    """Return a mask (B, 1, H, W) of the pixels that the defense most likely overwrote in images (B, C, H, W).

    Images are in the data's units. The mask is True at overwritten pixels.
    """
    height, width = images.shape[-2:]
    error = (images.double() - patches.fill).square().mean(1, keepdim=True)
    side = min(patches.side, height, width)
    # A square that is cut at the border counts by the mean over its own pixels.
    distance = avg_pool2d(error, side, ceil_mode=True)
    order = distance.flatten(1).argsort(dim=1, stable=True)
    mask = torch.zeros_like(distance.flatten(1), dtype=torch.bool)
    mask.scatter_(1, order[:, : patches.erased(height, width)], True)
    grid = mask.view(distance.shape)
    return grid.repeat_interleave(side, 2).repeat_interleave(side, 3)[..., :height, :width]


def fill_erased(images: Tensor, lost: Tensor, *, weight: float, steps: int) -> Tensor:
    """Return images (B, C, H, W) in unit coordinates, with the pixels `lost` (B, 1, H, W) filled smoothly."""
    kept = images.double()
    smooth = restore(kept, lambda unit: torch.where(lost, kept, unit), weight=weight, steps=steps)
    return torch.where(lost, smooth.clamp(0, 1), kept)
