"""Mixup: each example is mixed with another of the batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Le
from torch import Tensor

from leakgauge.core import Claim, Effect, MixedExamples, Seeds
from leakgauge.defenses.base import Undefended


@dataclass(frozen=True, kw_only=True)
class Mixup(Undefended):
    r"""Mix each example with another one of the batch (mixup).

    It acts on the batch before the gradient is computed. Targets are mixed with the same weights.

    .. math::

        \tilde x = \lambda x + (1 - \lambda) \, x_\pi, \qquad \tilde y = \lambda y + (1 - \lambda) \, y_\pi,
        \qquad \lambda \sim \mathrm{Beta}(\alpha, \alpha)

    Here :math:`x` are the examples, :math:`y` their one-hot targets, and :math:`\alpha` is `alpha`.
    A batch has one :math:`\lambda` and one permutation :math:`\pi`. Examples that the permutation
    leaves in place are not mixed. A batch of one is never mixed. If :math:`\lambda` is below 1/2,
    it becomes :math:`1 - \lambda`. The mixtures are then those of the inverse permutation.

    An adaptive adversary reconstructs the mixtures and their soft labels. The labels show which
    examples were mixed. Then it solves for the examples. The attack `MixupDecoding` does this.

    Args:
        alpha: Parameter of the Beta distribution, in [0.01, 1000]. The default is the paper's for
            CIFAR-10.

    References:
        Zhang, Cisse, Dauphin, Lopez-Paz. mixup: Beyond Empirical Risk Minimization. ICLR 2018,
        figure 1. arXiv:1710.09412.

    Example:
        >>> import leakgauge as lg
        >>> weights = lg.defenses.Mixup(alpha=1.0).weights(4, seeds=lg.Seeds(0))
        >>> weights.shape, weights.sum(1)
        (torch.Size([4, 4]), tensor([1., 1., 1., 1.]))
    """

    strength: ClassVar[str] = "alpha"
    claim: ClassVar[Claim] = Claim(
        "each example, within a mixture of two",
        "anyone who sees the update",
        "reconstructs the mixtures and their soft labels, reads from the labels which examples were mixed, and solves "
        "for the examples (attack mixup_decoding)",
    )
    alpha: Annotated[float, Ge(1e-2), Le(1e3)] = 1.0

    @property
    def effects(self) -> tuple[Effect, ...]:
        return (MixedExamples(per_mixture=2, weights=self.weights),)

    def on_batch(self, inputs: Tensor, targets: Tensor, *, seeds: Seeds) -> tuple[Tensor, Tensor]:
        """Return mixtures of inputs `(B, *shape)` and of targets (B,) or (B, K)."""
        weights = self.weights(len(inputs), seeds=seeds).to(inputs)
        return (
            torch.einsum("ij,j...->i...", weights, inputs),
            torch.einsum("ij,j...->i...", weights, targets),
        )

    def weights(self, count: int, *, seeds: Seeds) -> Tensor:
        """Draw the weights (B, B) of the examples in the mixtures: lambda I + (1 - lambda) P."""
        fraction = self._coefficient(seeds)
        order = torch.randperm(count, generator=seeds.generator("mixup order"))
        return fraction * torch.eye(count) + (1 - fraction) * torch.eye(count)[order]

    def _coefficient(self, seeds: Seeds) -> float:
        """Draw lambda in [1/2, 1]."""
        # Torch's Beta distribution takes no generator, so the global one is seeded.
        with seeds.isolated("mixup share"):
            alpha = torch.tensor(self.alpha, dtype=torch.float64)
            drawn = float(torch.distributions.Beta(alpha, alpha).sample())
        return max(drawn, 1 - drawn)
