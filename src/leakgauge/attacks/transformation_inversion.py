"""Gradient matching against transformations of the client's images: match first, then undo the transformation."""

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
    carry_back,
    mean_square,
    out_of_range,
    restore,
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
    r"""Run an attack, then undo on each image the most likely transformation of the client's known defense.

    Use it on images if the client's known defense, such as `ATS`, transforms each image by one of
    several maps.

    The attack recovers the transformed image :math:`\tilde x = T_p(x)`, without knowledge of the
    transformation :math:`p`. Then, for each :math:`p` that the defense may draw, the original and
    its score are computed:

    .. math::

        x_p &= \operatorname{argmin}_x \; m_p(x) + w \, \mathrm{smoothness}(x) \\
        p^* &= \operatorname{argmin}_p \; \frac{m_p(x_p)}{e^2} + \mathrm{strangeness}(x_p) \\
        m_p(x) &= \frac{\|T_p(x) - \tilde x\|^2 + \mathrm{distance}(x, [0, 1]^n)^2}{n}

    Here :math:`m_p` is the misfit, :math:`n` the number of values of an image, :math:`w` is `weight`
    and :math:`e` is `error`. Strangeness is a measure of how untypical an image is among
    photographs. Two transformations may explain :math:`\tilde x` equally well, for example one that
    raises and one that lowers the contrast. Then the one with the likelier original is chosen.

    Pixels that :math:`T_p` pushed out of the image are filled smoothly, since the update does not
    contain them.

    Args:
        attack: Gradient matching that recovers the transformed images. The default is
            `SecondOrder`.
        weight: Weight w of smoothness, above 0. The default is ours.
        error: Root mean squared misfit e, above 0, that counts as much as one unit of strangeness.
            Pixels are in [0, 1]. The default is ours.
        steps: Number of L-BFGS steps for each transformation, at least 1. The default is ours.

    References:
        Ours. We know of no publication.

    Example:
        >>> import leakgauge as lg
        >>> observation = lg.examples.observation(batch_size=1, defense=lg.defenses.ATS())
        >>> quick = lg.attacks.InvertingGradients(steps=10)
        >>> attack = lg.attacks.TransformationInversion(attack=quick, steps=5)
        >>> attack(observation, seeds=lg.Seeds(0)).inputs.shape
        torch.Size([1, 1, 8, 8])
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
            return Inapplicable(f"it undoes transformations of images; found a {domain.kind}")
        units = [partial(_in_unit, domain, one) for one in transformed.maps]
        return plan_mended(self.attack, observation, partial(self.undo, domain, units))

    def undo(self, domain: Domain, maps: Sequence[Map], inputs: Tensor) -> tuple[Tensor, str]:
        """Return the originals (B, C, H, W) of transformed images, and a note for the record.

        Args:
            domain: The domain of the images.
            maps: The transformations, in unit coordinates.
            inputs: The transformed images (B, C, H, W), in data units.
        """
        unit, chosen = undo_transformations(domain.to_unit(inputs).clamp(0, 1), maps, self)
        names = ", ".join(str(index) for index in chosen)
        return domain.from_unit(
            unit
        ), f"transformations: undid number {names}, counted from 0, of {len(maps)}"


def undo_transformations(
    transformed: Tensor, maps: Sequence[Map], attack: TransformationInversion
) -> tuple[Tensor, list[int]]:
    """Return the likeliest originals (B, C, H, W) of transformed images, and the index of the map of each image.

    Args:
        transformed: The images (B, C, H, W), in unit coordinates.
        maps: The transformations, in unit coordinates.
        attack: The options of the search.
    """
    originals, scores = [], []
    for one in maps:
        original = restore(transformed, one, weight=attack.weight, steps=attack.steps)
        misfit = mean_square(one(original) - transformed) + out_of_range(original)
        original, known = original.clamp(0, 1), carry_back(transformed.double(), one)[1]
        originals.append(original)
        scores.append(misfit / attack.error**2 + strangeness(original, known))
    best = torch.stack(scores).argmin(0)
    rows = torch.arange(len(transformed), device=transformed.device)
    return torch.stack(originals)[best, rows], best.tolist()


def _in_unit(domain: Domain, one: Map, unit: Tensor) -> Tensor:
    """Return images (B, C, H, W) in unit coordinates after a map of images in the data's own units."""
    return domain.to_unit(one(domain.from_unit(unit)))
