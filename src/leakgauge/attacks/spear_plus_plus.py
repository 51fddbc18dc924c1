"""SPEAR++. Bakarsky, Dimitrov, Baader, Vechev: Scaling Gradient Inversion via Sparsely-Used Dictionary
Learning, 2025.

    dL/dZ' = L Q: of a dictionary Q^-1 each example uses few atoms, so the columns of Q are the sparse
    directions of L; found one at a time by descent on the sphere, whatever the batch's size.

Ours: sum_i log(u_i^2 + e^2) of outputs u = L q in place of the paper's loss, by iteratively reweighted least
squares while e falls; each start is the pattern of zeros of a random input that is still allowed (a plane of
the layer's known weights), and each step leans toward such patterns.
"""

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
"""Where e starts, by turns: wide reaches far in large batches, narrow stays with the pattern it started from."""


@dataclass(frozen=True, kw_only=True)
class SpearPlusPlus(ReluSearch):
    """Whole batches, beyond SPEAR's too, through a wide linear first layer followed by ReLU.

    `starts` descents of `steps` reweighted steps a round; up to `rounds` rounds.
    """

    starts: Count = 60
    steps: Count = 160

    def proposer(self, factors: Factors, generator: torch.Generator) -> Propose:
        """Descents from patterns that the layer's weights can make, other than of those found."""
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
