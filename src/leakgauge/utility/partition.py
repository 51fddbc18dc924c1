"""The partition of examples among clients."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from leakgauge.core import DataError, Seeds

TRIES = 200
"""Largest number of draws. One of them must give each client enough examples."""


def label_skew(
    targets: Tensor, clients: int, alpha: float, *, seeds: Seeds, least: int = 1
) -> list[Tensor]:
    r"""Divide examples among clients with skewed labels, and return the indices of each client's examples.

    .. math::

        q_c \sim \mathrm{Dirichlet}(\alpha, \dots, \alpha)

    For each class :math:`c`, the vector :math:`q_c` holds the fraction of its examples that each
    client gets. So clients also differ in their numbers of examples. Every example belongs to
    exactly one client.

    Args:
        targets: Class labels (N,).
        clients: Number of clients, at least 1.
        alpha: Parameter of the Dirichlet distribution, above 0. With a small value, a client has few
            classes. With 100, all clients have nearly the same labels.
        seeds: Seeds of the draws.
        least: Smallest number of examples of a client. The partition is drawn up to 200 times,
            until each client has this many.

    Returns:
        The sorted indices of each client's examples, one tensor for each client.

    Raises:
        DataError: No draw gave each client enough examples.

    References:
        Hsu, Qi, Brown. Measuring the Effects of Non-Identical Data Distribution for Federated Visual
        Classification. 2019, section 3. arXiv:1909.06335. Their fractions are over classes for each
        client. Here they are over clients for each class, as in most later work.

    Example:
        >>> import torch
        >>> import leakgauge as lg
        >>> targets = torch.arange(100) % 10
        >>> parts = lg.utility.label_skew(targets, 4, 0.5, seeds=lg.Seeds(0))
        >>> len(parts), sum(len(part) for part in parts)
        (4, 100)
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
        found=f"a client with fewer in each of {TRIES} draws with alpha = {alpha}",
        remedy="give more examples, fewer clients, or a larger alpha",
    )
