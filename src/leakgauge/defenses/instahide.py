"""InstaHide. Huang, Song, Li, Arora: InstaHide: Instance-hiding Schemes for Private Distributed Learning, ICML 2020,
"inside-dataset": each example mixed with others of the batch, then each value's sign flipped by chance.

    x~_i = c + s o (sum_j l_ij x_{pi_j(i)} - c),    y~_i = sum_j l_ij y_{pi_j(i)},    s uniform in {-1, 1}^n
    pi_1 the identity, pi_2 ... pi_k random permutations;  l_i on the simplex, no more than `bound` each

The paper flips normalized values; here they are mirrored about c, the middle of [0, 1], and stay in that range.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from leakgauge.core import Claim, Effect, MixedExamples, Seeds, SpecificationError
from leakgauge.core.ranges import check_fields
from leakgauge.defenses.base import Undefended


@dataclass(frozen=True, kw_only=True)
class InstaHide(Undefended):
    """Mixtures of `mixed` examples with one-time signs; k = 4 and coefficients up to 0.65, as the paper's.

    Coefficients are uniform on the simplex below the bound; by which law the paper draws them we could not check. In a
    batch smaller than k some examples of a mixture are the same. `mirror` is c, in the data's own units.
    Raises SpecificationError where `bound` leaves no coefficients.
    """

    strength: ClassVar[str] = "mixed"
    claim: ClassVar[Claim] = Claim(
        "each example within a mixture of several, and the sign of each value",
        "whoever sees the update",
        "finds the mixtures at coefficients drawn as the client draws them, and undoes signs by absolute values",
    )
    mixed: Annotated[int, Ge(2)] = 4
    bound: Annotated[float, Gt(0), Le(1)] = 0.65
    mirror: float = 0.5

    def __post_init__(self) -> None:
        check_fields(self)
        # Near 1 / k hardly any draw is accepted.
        if self.bound < 1.2 / self.mixed:
            raise SpecificationError(
                "defense InstaHide",
                expected=f"a bound of at least {1.2 / self.mixed:g} for {self.mixed} coefficients that sum to 1",
                found=f"{self.bound:g}",
                remedy="raise bound, or mixed",
            )

    @property
    def effects(self) -> tuple[Effect, ...]:
        mixing = MixedExamples(per_mixture=self.mixed, mirror=self.mirror, weights=self.weights)
        return (mixing,)

    def on_batch(self, inputs: Tensor, targets: Tensor, *, seeds: Seeds) -> tuple[Tensor, Tensor]:
        """Encryptions of inputs (B, *shape), mixtures of targets (B,) or (B, K), numbers both."""
        weights = self.weights(len(inputs), seeds=seeds).to(inputs)
        generator = seeds.generator("instahide signs")
        signs = 2 * torch.randint(2, inputs.shape, generator=generator).to(inputs) - 1
        mixtures = torch.einsum("ij,j...->i...", weights, inputs)
        encrypted = self.mirror + signs * (mixtures - self.mirror)
        return encrypted, torch.einsum("ij,j...->i...", weights, targets)

    def weights(self, count: int, *, seeds: Seeds) -> Tensor:
        """How much of each example each mixture holds, (B, B), rows that sum to 1."""
        generator = seeds.generator("instahide mixing")
        found = torch.zeros(count, count)
        orders = [torch.arange(count)]
        orders += [torch.randperm(count, generator=generator) for _ in range(self.mixed - 1)]
        for row in range(count):
            for order, fraction in zip(orders, self._shares(generator), strict=True):
                found[row, order[row]] += fraction
        return found

    def _shares(self, generator: torch.Generator) -> Tensor:
        """Coefficients (k,) that sum to 1, by rejection."""
        while True:
            drawn = torch.empty(self.mixed).exponential_(generator=generator)
            shares = drawn / drawn.sum()
            if float(shares.max()) <= self.bound:
                return shares
