"""Who holds which examples. Hsu, Qi, Brown: Measuring the Effects of Non-Identical Data Distribution for Federated
Visual Classification, 2019, section 3; as most do, by classes, and so with clients of unlike size.

    for each class c:   shares over clients ~ Dirichlet(alpha, ..., alpha)
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from leakgauge.core import DataError, Seeds

TRIES = 200
"""Draws in which each client must get its least."""


def label_skew(
    targets: Tensor, clients: int, alpha: float, *, seeds: Seeds, least: int = 1
) -> list[Tensor]:
    """The indices of each client's examples, of targets (N,) class indices: every example has one client.

    alpha > 0: the smaller, the fewer classes a client sees; at 100 all see nearly the same. Drawn anew until
    each client has `least` examples. Raises DataError where that does not happen.
    """
    generator = np.random.Generator(np.random.PCG64(seeds.integer("partition")))
    groups = [
        (targets == label).nonzero().flatten().numpy() for label in sorted(set(targets.tolist()))
    ]
    for _ in range(TRIES):
        held: list[list[np.ndarray]] = [[] for _ in range(clients)]
        for group in groups:
            shares = generator.dirichlet(np.full(clients, alpha))
            cuts = np.round(np.cumsum(shares)[:-1] * len(group)).astype(int)
            for part, some in zip(held, np.split(generator.permutation(group), cuts), strict=True):
                part.append(some)
        found = [torch.from_numpy(np.sort(np.concatenate(part))) for part in held]
        if min(len(part) for part in found) >= least:
            return found
    raise DataError(
        "partition",
        expected=f"at least {least} of {len(targets)} examples for each of {clients} clients",
        found=f"none such in {TRIES} draws with alpha = {alpha}",
        remedy="give more examples, fewer clients, or a larger alpha",
    )
