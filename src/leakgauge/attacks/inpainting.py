"""What input dropout took, filled in from what is around it. Ours; we know of no publication.

    x~ by gradient matching, which is told of no mask;   erased: the k squares of x~ nearest the fill, k known
    x = x~ where not erased;  elsewhere the smoothest x around it (`restoration`)

What was dropped is not in the update: no attack on one round has more than the neighbors tell. A part of an image that
has the fill's own color is taken for erased, and filled with about that color again.
"""

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
    """`attack`, and its guess with what the known defense erased filled in, by `steps` of L-BFGS.

    `weight`: of smoothness beside the mean squared error of what was kept.
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
            return Inapplicable(f"it fills images in, not a {observation.domain.kind}")
        return plan_mended(
            self.attack, observation, partial(self.fill, observation.domain, patches)
        )

    def fill(self, domain: Domain, patches: ErasedPatches, inputs: Tensor) -> tuple[Tensor, str]:
        """Return images (B, C, H, W) in data units with the erased squares filled, and a note."""
        lost = erased(inputs, patches)
        guess = filled(domain.to_unit(inputs), lost, weight=self.weight, steps=self.steps)
        fraction = float(lost.double().mean())
        return domain.from_unit(guess), f"inpainting: {fraction:.0%} of each image taken for erased"


def erased(seen: Tensor, patches: ErasedPatches) -> Tensor:
    """Which pixels of images (B, C, H, W), in the data's units, a defense will have overwritten: (B, 1, H, W)."""
    height, width = seen.shape[-2:]
    error = (seen.double() - patches.fill).square().mean(1, keepdim=True)
    side = min(patches.side, height, width)
    # Squares that are cut at the end count as the mean over what they hold.
    distance = avg_pool2d(error, side, ceil_mode=True)
    order = distance.flatten(1).argsort(dim=1, stable=True)
    mask = torch.zeros_like(distance.flatten(1), dtype=torch.bool)
    mask.scatter_(1, order[:, : patches.erased(height, width)], True)
    grid = mask.view(distance.shape)
    return grid.repeat_interleave(side, 2).repeat_interleave(side, 3)[..., :height, :width]


def filled(seen: Tensor, lost: Tensor, *, weight: float, steps: int) -> Tensor:
    """Images (B, C, H, W) in unit coordinates, what is `lost` (B, 1, H, W) of them filled in smoothly."""
    kept = seen.double()
    smooth = restore(kept, lambda unit: torch.where(lost, kept, unit), weight=weight, steps=steps)
    return torch.where(lost, smooth.clamp(0, 1), kept)
