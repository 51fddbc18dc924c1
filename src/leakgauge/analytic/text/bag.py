"""The bag of words of a batch: the tokens whose rows of the embedding's gradient differ from zero."""

from __future__ import annotations

import torch
from torch import Tensor

from leakgauge.core import Inapplicable, Observation, TextDomain
from leakgauge.federated.layers.embeddings import TokenEmbedding, find_embedding

SUBSETS = 8
"""Number of random sets of rows that estimate the span of the last layer's part."""
OUTSIDE = 1e-4
"""Distance of a row of length 1 from that span, above which the row holds more than the last layer's part."""
SPAN = 1e-6
"""Singular value, relative to the largest, below which a direction is rounding error."""


def token_bag(observation: Observation, embedding: TokenEmbedding | None = None) -> Tensor | None:
    r"""Return the tokens that the private batch holds, without their order and number.

    A row of the embedding's gradient is zero unless its token is an input. A tied embedding is also
    the last layer, whose part of row v is :math:`\sum_t (p_{tv} - y_{tv}) h_t`. It is not zero for
    any token. Here :math:`h_t` (d,) is the input of the last layer at place t. The probability of
    token v is :math:`p_{tv}`, and :math:`y_{tv}` is 1 for the token to predict. These parts span at
    most as many dimensions as there are predicted places. So the row of an input lies outside the
    span of the other rows.

    A token whose embedding gets no gradient is not in the bag: the last token of a causal model, and
    tokens behind a mask.

    Args:
        observation: The observation.
        embedding: The token embedding. The default finds it.

    Returns:
        Tokens (N,) in ascending order, without padding. None if the embedding is frozen or unknown,
        or if the parts of a tied embedding cannot be separated. It is also None if there are more
        rows than tokens in the batch, as after noise.

    Example:
        >>> import torch
        >>> import leakgauge as lg
        >>> from leakgauge.analytic.text.bag import token_bag
        >>> domain = lg.TextDomain(50, 6, pad=0)
        >>> model = lg.models.transformer(domain, 2, dim=16, depth=1)
        >>> client = lg.Client(
        ...     model=model, loss=torch.nn.functional.cross_entropy, domain=domain, classes=2
        ... )
        >>> batch = lg.Batch(torch.tensor([[7, 3, 9, 3, 0, 0]]), torch.tensor([1]))
        >>> token_bag(lg.Server().observe(client, batch, seeds=lg.Seeds(0)))
        tensor([3, 7, 9])
    """
    domain = observation.domain
    found = find_embedding(observation) if embedding is None else embedding
    if isinstance(found, Inapplicable) or not isinstance(domain, TextDomain):
        return None
    rows = observation.update.tensors.get(found.name)
    if rows is None:
        return None
    held = _outside(rows, observation) if found.tied else _nonzero(rows)
    if held is None:
        return None
    tokens = held.nonzero().squeeze(1)
    tokens = tokens[(tokens < domain.vocabulary) & (tokens != domain.pad)]
    count = observation.knowledge.batch_size
    most = domain.vocabulary - 1 if count is None else count * domain.length
    return tokens if 0 < len(tokens) <= most else None


def _nonzero(rows: Tensor) -> Tensor:
    """Return which rows (V, d) are longer than the rounding error of the longest one."""
    norms = rows.double().norm(dim=1)
    held: Tensor = norms > torch.finfo(rows.dtype).eps * norms.max()
    return held


def _outside(rows: Tensor, observation: Observation) -> Tensor | None:
    """Return which rows (V, d) lie outside the span of most other rows, or None if the rows fill the space."""
    norms = rows.double().norm(dim=1, keepdim=True)
    unit = rows.double() / norms.clamp_min(torch.finfo(torch.float64).tiny)
    tokens = (observation.knowledge.batch_size or 1) * observation.domain.shape[0]
    size = min(2 * tokens + 16, len(rows) // 2)
    generator = torch.Generator().manual_seed(0)
    held = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
    for _ in range(SUBSETS):
        chosen = torch.randperm(len(rows), generator=generator)[:size].to(rows.device)
        _, sizes, basis = torch.linalg.svd(unit[chosen], full_matrices=False)
        rank = int((sizes > SPAN * sizes[0]).sum())
        if rank >= min(size, rows.shape[1]):
            return None
        basis = basis[:rank]
        held |= (unit - (unit @ basis.T) @ basis).norm(dim=1) > OUTSIDE
    return held
