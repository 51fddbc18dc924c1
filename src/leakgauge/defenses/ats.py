"""ATS: each image goes through a random chain of image operations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from leakgauge.core import Claim, DataError, Effect, Seeds, SpecificationError, TransformedExamples
from leakgauge.core.ranges import check_fields
from leakgauge.defenses.base import Undefended
from leakgauge.defenses.image_operations import OPERATIONS

_LIBRARY = """
invert 7, contrast 6, rotate 2, translate_x 9, sharpness 1, sharpness 3, shear_y 2, translate_y 2, autocontrast 5,
equalize 2, shear_y 5, posterize 5, color 3, brightness 5, sharpness 9, brightness 9, equalize 5, equalize 1,
contrast 7, sharpness 5, color 5, translate_x 5, equalize 7, autocontrast 8, translate_y 3, sharpness 6, brightness 6,
color 8, solarize 0, invert 0, equalize 0, autocontrast 0, equalize 8, equalize 4, color 5, equalize 5,
autocontrast 4, solarize 4, brightness 3, color 0, solarize 1, autocontrast 0, translate_y 3, translate_y 3,
autocontrast 1, solarize 1, equalize 5, invert 0, translate_y 3, autocontrast 1
"""
LIBRARY: tuple[tuple[str, int], ...] = tuple(
    (name, int(index)) for name, index in (entry.split() for entry in _LIBRARY.split(","))
)
"""Name of each operation and index of its magnitude, from 0 to 9. The place in the tuple is its number."""

Policy = tuple[int, ...]


class Step(NamedTuple):
    """One operation in one direction."""

    operation: str
    magnitude: float


@dataclass(frozen=True)
class Transformation:
    """A chain of operations, from images (B, C, H, W) in [0, 1] to images of the same shape in [0, 1]."""

    steps: tuple[Step, ...]

    def __call__(self, images: Tensor) -> Tensor:
        for step in self.steps:
            images = OPERATIONS[step.operation].apply(images, step.magnitude)
        return images


@dataclass(frozen=True, kw_only=True)
class ATS(Undefended):
    r"""Train on randomly transformed images (Automatic Transformation Search).

    It acts on the batch before the gradient is computed. Each image gets one of a few policies. A
    policy is a chain of operations, such as a shift, a rotation or a change of contrast.

    .. math::

        \tilde x_i = T_{p_i}(x_i), \qquad p_i \sim \mathrm{uniform}(\mathrm{policies})

    Here :math:`x_i` is image :math:`i` of the batch, and :math:`T_p` applies the operations of
    policy :math:`p` one after the other. Some operations have two directions, such as left or
    right, or brighter or darker. The direction is drawn too.

    There are 50 operations, numbered from 0 as in the authors' code. Their code lists
    probabilities, but never uses them: it applies every operation of a policy. Their code also adds
    a random crop and a mirroring. Those belong to the data, and are left out here.
    `leakgauge.defenses.ats_search.ATSSearch` finds policies for a model.

    An adaptive adversary reconstructs the transformed image first. Then it undoes every
    transformation that the policies allow, and keeps the most likely image. The attack
    `TransformationInversion` does this.

    Args:
        policies: Policies, joined by "+". A policy is numbers of operations from 0 to 49, joined by
            "-". An empty string changes nothing. The default is the pair that the authors use for
            ResNet-20 on CIFAR-100.

    Raises:
        SpecificationError: A number is outside the library of operations.
        DataError: The inputs are no images (B, C, H, W).

    References:
        Gao, Guo, Zhang, Qiu, Wen, Liu. Privacy-preserving Collaborative Learning with Automatic
        Transformation Search. CVPR 2021, sections 3 and 4. arXiv:2011.12505.

    Example:
        >>> import leakgauge as lg
        >>> batch = lg.examples.batch(2)
        >>> defense = lg.defenses.ATS(policies="3-1-7")
        >>> images, labels = defense.on_batch(batch.inputs, batch.targets, seeds=lg.Seeds(0))
        >>> images.shape, len(defense.maps)
        (torch.Size([2, 1, 8, 8]), 8)
    """

    claim: ClassVar[Claim] = Claim(
        "each image, behind a transformation drawn from a short list",
        "anyone who sees the update",
        "reconstructs the transformed image, undoes each transformation of the list, and keeps the most likely image "
        "(attack transformation_inversion)",
    )
    policies: str = "3-1-7+43-18-18"

    def __post_init__(self) -> None:
        check_fields(self)
        _ = self.chains

    @property
    def chains(self) -> tuple[Policy, ...]:
        """Each policy, as numbers of operations in the library."""
        try:
            found = tuple(parse_policy(text) for text in self.policies.split("+"))
        except ValueError:
            found = ((-1,),)
        if not all(0 <= i < len(LIBRARY) for policy in found for i in policy):
            raise SpecificationError(
                "defense ATS",
                expected=f"policies such as '3-1-7+43-18-18', of numbers from 0 to {len(LIBRARY) - 1}",
                found=repr(self.policies),
                remedy="correct policies",
            )
        return found

    @property
    def effects(self) -> tuple[Effect, ...]:
        return (TransformedExamples(maps=self.maps),)

    @property
    def maps(self) -> tuple[Transformation, ...]:
        """Every transformation that may be drawn, each listed once."""
        each = (
            Transformation(steps) for policy in self.chains for steps in with_directions(policy)
        )
        return tuple(dict.fromkeys(each))

    def on_batch(self, inputs: Tensor, targets: Tensor, *, seeds: Seeds) -> tuple[Tensor, Tensor]:
        """Return images (B, C, H, W), each transformed by its own draw, and the targets unchanged.

        Raises:
            DataError: The inputs have another shape.
        """
        if inputs.ndim != 4:
            raise DataError(
                "defense ATS",
                expected="images (B, C, H, W)",
                found=f"inputs of shape {tuple(inputs.shape)}",
                remedy="choose a defense that does not transform images",
            )
        generator = seeds.generator("ats")
        found = [self._draw(generator)(image[None]) for image in inputs]
        return torch.cat(found), targets

    def _draw(self, generator: torch.Generator) -> Transformation:
        """Draw a policy, then a direction for each of its operations that has two."""
        chains = self.chains
        policy = chains[int(torch.randint(len(chains), (), generator=generator))]
        choices = list(with_directions(policy))
        return Transformation(choices[int(torch.randint(len(choices), (), generator=generator))])


def parse_policy(text: str) -> Policy:
    """Return one policy from its notation.

    Raises:
        ValueError: The text is not numbers joined by "-".
    """
    return tuple(int(number) for number in text.split("-")) if text else ()


def with_directions(policy: Policy) -> Iterator[tuple[Step, ...]]:
    """Yield the policy in each combination of directions. All combinations are equally likely."""
    options = []
    for number in policy:
        name, index = LIBRARY[number]
        operation = OPERATIONS[name]
        size = operation.magnitude(index)
        options.append(
            [Step(name, size), Step(name, -size)] if operation.signed else [Step(name, size)]
        )
    yield from product(*options)
