"""ATS. Gao, Guo, Zhang, Qiu, Wen, Liu: Privacy-preserving Collaborative Learning with Automatic Transformation Search,
CVPR 2021, sections 3 and 4.

    x~ = T_p(x),    p drawn for each image from a few policies (the hybrid form), each a chain of up to three of 50
    operations; directions (left or right, brighter or darker) drawn with it

The 50 operations and their numbers, counted from 0, are those of the authors' code, whose probabilities are never
drawn on: each operation of a chain is applied. `ats_search` finds policies.
"""

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
"""Operation and index of its magnitude, by number."""

Policy = tuple[int, ...]


class Step(NamedTuple):
    """One operation in one direction."""

    operation: str
    magnitude: float


@dataclass(frozen=True)
class Transformation:
    """A chain of operations: images (B, C, H, W) in [0, 1] to such images."""

    steps: tuple[Step, ...]

    def __call__(self, images: Tensor) -> Tensor:
        for step in self.steps:
            images = OPERATIONS[step.operation].apply(images, step.magnitude)
        return images


@dataclass(frozen=True, kw_only=True)
class ATS(Undefended):
    """Each image through one of `policies`, in the authors' notation: numbers joined by "-", policies by "+".

    The default is the hybrid of the two that the authors run ResNet-20 on CIFAR-100 with; "" changes nothing. The
    random crop and mirror of usual training, which their code adds, are left out: they belong to the data. Raises
    SpecificationError of a number outside the library, DataError of data that is no images.
    """

    claim: ClassVar[Claim] = Claim(
        "each image behind a transformation, which is drawn from a few",
        "whoever sees the update",
        "finds the transformed image, undoes each transformation that may have been, and keeps the likeliest",
    )
    policies: str = "3-1-7+43-18-18"

    def __post_init__(self) -> None:
        check_fields(self)
        _ = self.chains

    @property
    def chains(self) -> tuple[Policy, ...]:
        """Each policy as numbers of the library."""
        try:
            found = tuple(chain(text) for text in self.policies.split("+"))
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
        """Each transformation that may be drawn, once."""
        each = (Transformation(steps) for policy in self.chains for steps in directed(policy))
        return tuple(dict.fromkeys(each))

    def on_batch(self, inputs: Tensor, targets: Tensor, *, seeds: Seeds) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W), each through a transformation of its own. Raises DataError of other inputs."""
        if inputs.ndim != 4:
            raise DataError(
                "defense ATS",
                expected="images (B, C, H, W)",
                found=f"inputs of shape {tuple(inputs.shape)}",
                remedy="choose a defense that does not transform images",
            )
        generator = seeds.generator("ats")
        found = [self._drawn(generator)(image[None]) for image in inputs]
        return torch.cat(found), targets

    def _drawn(self, generator: torch.Generator) -> Transformation:
        """A policy, then a direction for each of its operations that has two."""
        chains = self.chains
        policy = chains[int(torch.randint(len(chains), (), generator=generator))]
        choices = list(directed(policy))
        return Transformation(choices[int(torch.randint(len(choices), (), generator=generator))])


def chain(text: str) -> Policy:
    """One policy from its notation. Raises ValueError where that is none."""
    return tuple(int(number) for number in text.split("-")) if text else ()


def directed(policy: Policy) -> Iterator[tuple[Step, ...]]:
    """The policy in each combination of directions, all alike probable."""
    options = []
    for number in policy:
        name, index = LIBRARY[number]
        operation = OPERATIONS[name]
        size = operation.magnitude(index)
        options.append(
            [Step(name, size), Step(name, -size)] if operation.signed else [Step(name, size)]
        )
    yield from product(*options)
