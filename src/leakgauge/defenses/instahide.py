"""InstaHide: examples are mixed, then the sign of each value is flipped at random."""

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
    r"""Mix examples of the batch and flip the sign of each value at random (InstaHide).

    It acts on the batch before the gradient is computed. It is the paper's "inside-dataset"
    variant: examples mix with others of the same batch.

    .. math::

        \tilde x_i &= c + s_i \odot \Big( \sum_{j=1}^{k} l_{ij} \, x_{\pi_j(i)} - c \Big) \\
        \tilde y_i &= \sum_{j=1}^{k} l_{ij} \, y_{\pi_j(i)}, \qquad s_i \sim \mathrm{uniform}\{-1, 1\}^n

    Here :math:`x_i, y_i` are the examples and their targets, and :math:`k` is `mixed`. The
    permutation :math:`\pi_1` is the identity, and the others are random. In a batch smaller than
    :math:`k` some examples of a mixture repeat. The coefficients :math:`l_{ij}` of a mixture sum to
    1, and none exceeds `bound`. They are uniform among these. We could not check how the paper
    draws them.

    The paper flips the sign of normalized values. Here values are mirrored about :math:`c`, which
    is `mirror`. The middle of [0, 1] keeps them in that range.

    An adaptive adversary reconstructs the mixtures, with coefficients drawn as the client draws
    them. Then it takes absolute values, which removes the signs. The attack `InstaHideDecoding`
    does this. The mixtures of one batch stay mixed.

    Args:
        mixed: Number of examples in a mixture, at least 2. The default is the paper's.
        bound: Largest coefficient, in (0, 1]. The default is the paper's.
        mirror: Value about which signs flip, in the data's own units. The default is the middle of
            [0, 1].

    Raises:
        SpecificationError: `bound` is below 1.2 / `mixed`. Then hardly any coefficients fit.

    References:
        Huang, Song, Li, Arora. InstaHide: Instance-hiding Schemes for Private Distributed Learning.
        ICML 2020. arXiv:2010.02772.

        Against it: Carlini, Deng, Garg, Jha, Mahloujifar, Mahmoody, Song, Thakurta, Tramèr. Is
        Private Learning Possible with Instance Encoding? IEEE Symposium on Security and Privacy
        2021. arXiv:2011.05315.

    Example:
        >>> import leakgauge as lg
        >>> defense = lg.defenses.InstaHide(mixed=4, bound=0.65)
        >>> weights = defense.weights(8, seeds=lg.Seeds(0))
        >>> weights.shape, bool((weights.sum(1) - 1).abs().max() < 1e-6)
        (torch.Size([8, 8]), True)
    """

    strength: ClassVar[str] = "mixed"
    claim: ClassVar[Claim] = Claim(
        "each example, within a mixture of several, and the sign of each value",
        "anyone who sees the update",
        "reconstructs the mixtures, with coefficients drawn as the client draws them, and takes absolute values, "
        "which removes the signs (attack instahide_decoding)",
    )
    mixed: Annotated[int, Ge(2)] = 4
    bound: Annotated[float, Gt(0), Le(1)] = 0.65
    mirror: float = 0.5

    def __post_init__(self) -> None:
        check_fields(self)
        # Rejection would take too long near 1 / k, where hardly any draw is accepted.
        if self.bound < 1.2 / self.mixed:
            raise SpecificationError(
                "defense InstaHide",
                expected=f"a bound of at least {1.2 / self.mixed:g} for mixtures of {self.mixed} examples",
                found=f"{self.bound:g}",
                remedy="raise bound or mixed",
            )

    @property
    def effects(self) -> tuple[Effect, ...]:
        mixing = MixedExamples(per_mixture=self.mixed, mirror=self.mirror, weights=self.weights)
        return (mixing,)

    def on_batch(self, inputs: Tensor, targets: Tensor, *, seeds: Seeds) -> tuple[Tensor, Tensor]:
        """Return the hidden mixtures of inputs `(B, *shape)`, and the mixtures of targets (B,) or (B, K)."""
        weights = self.weights(len(inputs), seeds=seeds).to(inputs)
        generator = seeds.generator("instahide signs")
        signs = 2 * torch.randint(2, inputs.shape, generator=generator).to(inputs) - 1
        mixtures = torch.einsum("ij,j...->i...", weights, inputs)
        encrypted = self.mirror + signs * (mixtures - self.mirror)
        return encrypted, torch.einsum("ij,j...->i...", weights, targets)

    def weights(self, count: int, *, seeds: Seeds) -> Tensor:
        """Draw the weight of each example in each mixture: (B, B), where each row sums to 1."""
        generator = seeds.generator("instahide mixing")
        found = torch.zeros(count, count)
        orders = [torch.arange(count)]
        orders += [torch.randperm(count, generator=generator) for _ in range(self.mixed - 1)]
        for row in range(count):
            for order, fraction in zip(orders, self._coefficients(generator), strict=True):
                found[row, order[row]] += fraction
        return found

    def _coefficients(self, generator: torch.Generator) -> Tensor:
        """Draw coefficients (k,) that sum to 1, by rejection."""
        while True:
            drawn = torch.empty(self.mixed).exponential_(generator=generator)
            found = drawn / drawn.sum()
            if float(found.max()) <= self.bound:
                return found
