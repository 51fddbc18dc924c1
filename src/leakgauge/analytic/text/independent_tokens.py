r"""The tokens of a batch among all that the span of the first layer admits, if these depend on each other.

Inputs are often sums of a token's and a position's embedding. Let the tokens a and b stand at
position 1, and a at position 2 as well. Then b at position 2 lies in the span, too: three inputs
give the fourth. So a gradient of rank r admits more than r pairs of token and position. Two more
equations tell which r are true. With the signals :math:`\Delta_m` of pair m, and the gradient
:math:`g_m` of its sum of embeddings,

.. math::

    \sum_m \Delta_m x_m^\top = dW, \qquad \sum_{m: t_m = t} g_m = dE_t, \qquad \sum_{m: p_m = p} g_m = dP_p .

Both are solved by the smallest sum of norms. A false pair that replaces a true one changes two
others, which makes the sum larger. The r independent pairs with the largest norms are kept, and
others that are nearly as large.

References:
    Ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from leakgauge.analytic.text.first_tokens import FirstTokens
from leakgauge.federated.layers.embeddings import TokenEmbedding

ROUNDS = 30
"""Rounds of reweighted least squares."""
DEPENDENT = 1e-4
"""An input closer than this, relative to its norm, to the span of those kept depends on them."""
SPARE = 0.05
"""Size of a dependent pair, relative to the median of the independent ones, from which it is kept, too."""
EQUAL = 1e-3
"""Largest relative difference of the sums of two embeddings' gradients that count as equal."""


def independent(
    first: FirstTokens,
    inputs: Tensor,
    slopes: Tensor,
    embeddings: tuple[Tensor, Tensor] | None,
) -> FirstTokens:
    """Return the independent pairs of token and position that explain the gradients best.

    Args:
        first: All admitted pairs, with positions.
        inputs: Their inputs (M, D).
        slopes: Gradients (E, D) of the layers that read them.
        embeddings: Gradients (V, D') and (P, D') of the embeddings of tokens and positions. None if
            one of them is not shared.
    """
    assert first.places is not None
    inputs = inputs.double()
    basis = torch.linalg.svd(inputs, full_matrices=False)[2][: first.rank]
    systems = [((inputs @ basis.T).T, (slopes.double() @ basis.T).T)]
    if embeddings is not None:
        systems.append(_sums(first.tokens, first.places, *embeddings))
    sizes = _sparse(systems[-1:])
    kept = _likely(inputs, sizes)
    return replace(first, tokens=first.tokens[kept], places=first.places[kept])


def embedding_gradients(
    update: Mapping[str, Tensor], embedding: TokenEmbedding, length: int
) -> tuple[Tensor, Tensor] | None:
    """Return the gradients (V, D) and (L, D) of the embeddings of tokens and positions, or None if one is not shared.

    Positions may be a parameter and no embedding. Then its gradient is recognized: each pair adds
    the same to a row of both gradients, so their sums over rows agree.

    Args:
        update: The gradients, by name.
        embedding: The embedding of tokens.
        length: Number of positions L.
    """
    name, places = embedding.name, embedding.positions
    if name not in update:
        return None
    tokens = update[name].double()
    if places is not None and places in update:
        return tokens, update[places][list(embedding.rows)].double()
    total = tokens.sum(0)
    for other, found in update.items():
        rows = found.double().reshape(-1, found.shape[-1]) if found.ndim > 1 else found[None]
        if other == name or rows.shape[1:] != tokens.shape[1:] or len(rows) < length:
            continue
        if float((rows.sum(0) - total).norm()) <= EQUAL * float(total.norm()):
            return tokens, rows
    return None


def _sums(tokens: Tensor, places: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Return the equations for the sums over pairs of one token, and of one position."""
    kinds, index = torch.unique(tokens, return_inverse=True)
    count = int(places.max()) + 1
    matrix = torch.zeros(len(kinds) + count, len(tokens), dtype=torch.float64)
    pairs = torch.arange(len(tokens))
    matrix[index, pairs] = 1
    matrix[len(kinds) + places, pairs] = 1
    return matrix, torch.cat([rows[kinds], columns[:count]]).double()


def _sparse(systems: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the norms (M,) of the solution with the smallest sum of norms, over all systems together."""
    weights = torch.ones(systems[0][0].shape[1], dtype=torch.float64)
    for step in range(ROUNDS):
        squares = torch.zeros_like(weights)
        for matrix, wanted in systems:
            scaled = matrix * weights
            gram = scaled @ matrix.T
            ridge = 1e-10 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
            solved = scaled.T @ torch.linalg.solve(gram + ridge, wanted)
            each = solved.square().sum(1)
            squares += each / each.mean().clamp_min(1e-300)
        floor = 10.0 ** (-6 * step / ROUNDS)
        weights = squares.sqrt() / squares.sqrt().max() + floor
    return weights


def _likely(inputs: Tensor, sizes: Tensor) -> Tensor:
    """Return the indices of independent inputs (M, D), and of all others that are nearly as large, in order."""
    norms = inputs.norm(dim=1)
    left = inputs.clone()
    kept = []
    for i in sizes.argsort(descending=True).tolist():
        rest = left[i]
        if float(rest.norm()) <= DEPENDENT * float(norms[i]):
            continue
        kept.append(i)
        unit = rest / rest.norm()
        left = left - (left @ unit)[:, None] * unit
    least = SPARE * float(sizes[kept].median())
    return torch.tensor(sorted({*kept, *(sizes > least).nonzero().flatten().tolist()}))
