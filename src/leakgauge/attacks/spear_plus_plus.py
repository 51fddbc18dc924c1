"""SPEAR++: whole batches beyond the sizes that SPEAR can search, from sparse directions found by descent."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle

import torch
from torch import Tensor

from leakgauge.analytic.relu_layer import Factors
from leakgauge.analytic.relu_search import Propose
from leakgauge.analytic.sparse_directions import Allowed, descend
from leakgauge.attacks.spear import ReluSearch
from leakgauge.core.ranges import Count

WIDEST = (1.0, 1.0, 1.0, 0.1)
"""First values of the width e in the loss `log(u^2 + e^2)`. Successive rounds take turns.

A wide start moves far from its first pattern of zeros, which large batches need. A narrow start stays near it.
"""


@dataclass(frozen=True, kw_only=True)
class SpearPlusPlus(ReluSearch):
    r"""Recover whole batches, larger than SPEAR can, through a wide first linear layer that a ReLU follows.

    Use it if the batch is too large for SPEAR. The labels may be any, and need not be known.

    The factorization is that of SPEAR: :math:`\Delta^\top = L Q`, where :math:`L` comes from the
    gradient and :math:`Q` is unknown. The columns :math:`q` of :math:`Q` are directions for which
    :math:`u = L q` is sparse. This is dictionary learning: each example uses few atoms of the
    dictionary :math:`Q^{-1}`. Descent on the sphere finds one direction at a time, for any batch
    size:

    .. math::

        \min_{\|q\| = 1} \; \sum_i \log(u_i^2 + e^2)

    This loss is ours, in place of the paper's. Iteratively reweighted least squares minimizes it
    while :math:`e` falls. Each descent starts from a pattern of zeros that a random input makes in
    the layer with its known weights. Patterns of examples that are already found are left out. Each
    step prefers patterns that the weights can make.

    Args:
        rounds: Largest number of rounds, at least 1. The default is ours.
        starts: Number of descents in each round, at least 1. The default is ours.
        steps: Number of reweighted steps of each descent, at least 1. The default is ours.

    References:
        Bakarsky, Dimitrov, Baader, Vechev. SPEAR++: Scaling Gradient Inversion via Sparsely-Used
        Dictionary Learning. 2025. arXiv:2510.24200.

    Example:
        >>> import leakgauge as lg
        >>> observation = lg.examples.observation(batch_size=4)
        >>> attack = lg.attacks.SpearPlusPlus()
        >>> attack(observation, seeds=lg.Seeds(0)).status
        <Status.CERTIFIED: 'certified'>
    """

    starts: Count = 60
    steps: Count = 160

    def proposer(self, factors: Factors, generator: torch.Generator) -> Propose:
        """Return a function that proposes the results of descents from patterns that the layer's weights can make."""
        turns = cycle(WIDEST)

        def propose(allowed: Allowed) -> Tensor:
            starts, weights = allowed.draw(factors, self.starts, generator)
            return descend(
                factors,
                starts,
                steps=self.steps,
                widest=next(turns),
                planes=allowed.planes,
                weights=weights,
            )

        return propose
