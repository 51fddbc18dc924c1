"""Transformations of the client's images undone: the search that sees through ATS. Ours; we know of no publication.

    x~ = T_p(x),  p unknown:    x~ by gradient matching, which is told of no transformation
    for each p:   x_p = argmin_x ||T_p(x) - x~||^2 / n + w smoothness(x)
    p* = argmin_p   ||T_p(x_p) - x~||^2 / (n e^2)  +  strangeness(x_p)

What T_p pushed out of the image is filled smoothly, no more: it is not in the update. Of two directions that explain
x~ alike (more contrast or less), the one chosen leaves the likelier photograph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from leakgauge.attacks.mending import plan_mended
from leakgauge.attacks.recipe import Recipe
from leakgauge.attacks.restoration import (
    Map,
    beyond,
    carried_back,
    mean_square,
    restored,
    strangeness,
)
from leakgauge.attacks.second_order import SecondOrder
from leakgauge.core import (
    BaseAttack,
    Domain,
    Inapplicable,
    Observation,
    Plan,
    TransformedExamples,
    effect,
    image_grid,
)
from leakgauge.core.ranges import Count, Positive

DEFAULT = SecondOrder()


@dataclass(frozen=True, kw_only=True)
class TransformationInversion(BaseAttack):
    """`attack`, and each example of its guess back through every transformation that the known defense may draw.

    `weight`: of smoothness, w. `error`: the root mean squared misfit, in [0, 1], that counts as much as one unit of
    strangeness. `steps`: of L-BFGS for each transformation.
    """

    attack: Recipe = DEFAULT
    weight: Positive = 1e-4
    error: Positive = 0.014
    steps: Count = 200

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"batch_size", "defense"})

    def prepare(self, observation: Observation) -> Plan | Inapplicable:
        transformed, domain = effect(observation, TransformedExamples), observation.domain
        if transformed is None:
            return Inapplicable("the known defense does not transform images")
        if image_grid(domain) is None:
            return Inapplicable(f"it tells transformations apart by images, not by a {domain.kind}")
        units = [partial(_in_unit, domain, one) for one in transformed.maps]
        return plan_mended(self.attack, observation, partial(self.undo, domain, units))

    def undo(self, domain: Domain, maps: Sequence[Map], inputs: Tensor) -> tuple[Tensor, str]:
        """Return the originals (B, C, H, W) of images in data units, and a note. maps: in unit coordinates."""
        guess, chosen = undone(domain.to_unit(inputs).clamp(0, 1), maps, self)
        names = ", ".join(str(index) for index in chosen)
        return domain.from_unit(guess), f"transformations: of {len(maps)}, number {names} undone"


def undone(
    seen: Tensor, maps: Sequence[Map], attack: TransformationInversion
) -> tuple[Tensor, list[int]]:
    """The likeliest originals (B, C, H, W) of transformed images, and which map of each."""
    guesses, scores = [], []
    for one in maps:
        guess = restored(seen, one, weight=attack.weight, steps=attack.steps)
        misfit = mean_square(one(guess) - seen) + beyond(guess)
        guess, known = guess.clamp(0, 1), carried_back(seen.double(), one)[1]
        guesses.append(guess)
        scores.append(misfit / attack.error**2 + strangeness(guess, known))
    best = torch.stack(scores).argmin(0)
    rows = torch.arange(len(seen), device=seen.device)
    return torch.stack(guesses)[best, rows], best.tolist()


def _in_unit(domain: Domain, one: Map, unit: Tensor) -> Tensor:
    """A map of the data's own units, in unit coordinates."""
    return domain.to_unit(one(domain.from_unit(unit)))
