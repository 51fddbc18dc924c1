r"""Which tokens of a batch stand in one sequence, from the gradients of the first attention's queries and keys.

Let :math:`q_i` and :math:`k_j` be the queries and keys of one head, computed from the tokens' inputs
:math:`x`. The softmax gives scores with derivatives :math:`ds_{ij}`, which sum to 0 over j. So

.. math::

    \delta^q_i = c \sum_j ds_{ij} k_j, \qquad \sum_j ds_{ij} = 0, \qquad dW_q = \sum_i \delta^q_i x_i^\top .

The tokens and their positions are known, and so are the inputs. They give :math:`\delta^q_i` for
each token. :math:`ds_{ij}` is 0 unless i and j stand in one sequence. All heads share these zeros. So the
links are found as a solution that is sparse jointly over heads. No sequence is tried.

References:
    Ours. Li et al. SOMP: Scalable Gradient Inversion for Large Language Models via Subspace-Guided
    Orthogonal Matching Pursuit. 2026, arXiv:2603.16761, also uses subspaces of heads and joint
    sparsity, in a search over tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from leakgauge.analytic.text.readers import Reader, capture, lengthened
from leakgauge.core import Inapplicable, Observation, TextDomain, trainable
from leakgauge.federated.isolation.probing import probing
from leakgauge.federated.training.fedsgd import local_update

PROBED = 4
"""Tokens of the sequence on which queries and keys are recognized."""
HOLDS = 1e-2
"""Largest relative error at which the equation holds on a simulated gradient, in float32."""
HEADS = 64
"""Most heads that are tried."""
ROUNDS = 25
"""Rounds of reweighted least squares."""
DEPENDENT = 1e-5
"""Singular values below this, relative to the largest, mean that the inputs of tokens depend on each other."""
JOINT = 4
"""Most heads in a solution for all queries together, whose work grows with their number."""
SILENT = 1e-4
"""Queries whose derivatives are all smaller than this, relative to the largest, belong to no sequence."""


@dataclass(frozen=True)
class Heads:
    """The queries and keys of the first attention.

    Args:
        query: The layer that makes the queries.
        key: The layer that makes the keys.
        parts: Number of equal parts into which the layers' outputs are split, 1 or 3.
        places: Numbers of the parts that hold queries and keys.
        count: Number of heads.
    """

    query: Reader
    key: Reader
    parts: int
    places: tuple[int, int]
    count: int

    def slopes(self, update: dict[str, Tensor]) -> Tensor:
        """Return the gradient of the queries' weight (E, D)."""
        return self.query.slopes(update).chunk(self.parts)[self.places[0]]

    def keys(self, weights: dict[str, Tensor], inputs: Tensor) -> Tensor:
        """Return the keys (H, N, E / H) of inputs (N, D), without the bias, which drops out."""
        weight = self.key.slopes(weights).chunk(self.parts)[self.places[1]]
        keys: Tensor = inputs @ weight.T
        return keys.reshape(len(inputs), self.count, -1).transpose(0, 1)


def heads_of(
    observation: Observation, domain: TextDomain, readers: Sequence[Reader], *, shorter: bool
) -> Heads | Inapplicable:
    """Return the queries and keys among readers of single tokens, checked on a simulated gradient.

    Args:
        observation: The observation.
        domain: The domain of the text.
        readers: The layers.
        shorter: Whether the model takes shorter sequences.
    """
    model, length = observation.model, min(PROBED, domain.length)
    generator = torch.Generator().manual_seed(1)
    tokens = domain.space.sample(8, generator)[:, :length]
    tokens = next((row for row in tokens if len(set(row.tolist())) == length), tokens[0])[None]
    tokens = lengthened(domain, tokens, shorter=shorter)
    with probing():
        update = local_update(
            observation.training, model, observation.loss, tokens, torch.zeros(1).long()
        )
    weights = {name: p.detach() for name, p in trainable(model).items()}
    inputs = capture(model, tokens, [readers[0].name])[readers[0].name][0, :length].double()
    for heads in _guesses(readers):
        rows = len(heads.query.slopes(update)), len(heads.key.slopes(update))
        outputs = rows[0] // heads.parts
        if (
            any(row % heads.parts for row in rows)
            or outputs % heads.count
            or len(heads.key.slopes(update)) // heads.parts != outputs
        ):
            continue
        slopes = signals(heads.slopes(update), inputs)
        if not float(slopes.norm()):
            continue
        error = _misfit(slopes, heads.keys(weights, inputs))
        if error <= HOLDS:
            return heads
    return Inapplicable("no layer's gradient is that of the queries of a softmax attention")


def _guesses(readers: Sequence[Reader]) -> list[Heads]:
    """Return all pairs of queries and keys, with the smallest number of heads first."""
    found = []
    for count in range(1, HEADS + 1):
        for query in readers:
            for key in readers:
                for parts in (1, 3):
                    places = [(a, b) for a in range(parts) for b in range(parts)]
                    found += [
                        Heads(query, key, parts, pair, count)
                        for pair in places
                        if (query is not key) == (parts == 1) and (parts == 1 or pair[0] != pair[1])
                    ]
    return found


def signals(slopes: Tensor, inputs: Tensor) -> Tensor:
    """Return the signals (N, E) of inputs (N, D) whose products with them sum to the slopes (E, D)."""
    found: Tensor = torch.linalg.lstsq(inputs.T, slopes.T, driver="gelsd").solution
    return found


def _misfit(slopes: Tensor, keys: Tensor) -> float:
    """Return the relative error of the equation for signals (N, E) and keys (H, N, E / H)."""
    _, tokens, width = keys.shape
    if tokens > width:
        return 1.0
    matrix, wanted = _equations(slopes, keys)
    solved = torch.linalg.pinv(matrix) @ wanted
    return float((matrix @ solved - wanted).norm() / wanted.norm())


def _equations(slopes: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Return the matrices (H, E / H + 1, N) and right sides (H, E / H + 1, N), one column for each query."""
    wanted = slopes.reshape(len(slopes), len(keys), -1).permute(1, 2, 0)
    matrix = keys.transpose(1, 2)
    # The last row says that derivatives of scores sum to 0. It is as large as the others.
    size = matrix.norm() / matrix.numel() ** 0.5 * 10
    ones = torch.ones_like(matrix[:, :1]) * size
    return torch.cat([matrix, ones], 1), torch.cat([wanted, torch.zeros_like(wanted[:, :1])], 1)


def links(slopes: Tensor, inputs: Tensor, keys: Tensor, allowed: Tensor) -> Tensor:
    """Return how strongly each token's query depends on each token's key, (N, N), largest 1 in each row.

    If the inputs are independent, each query has equations of its own. Otherwise all queries are
    solved together. Tokens that no solution needs have rows of 0.

    Args:
        slopes: Gradient (E, D) of the queries' weight.
        inputs: Inputs (N, D) of the tokens that may occur.
        keys: Keys (H, N, E / H).
        allowed: (N, N), whether the query of the first token may see the key of the second.
    """
    rank = int(torch.linalg.matrix_rank(inputs, rtol=DEPENDENT))
    if rank == len(inputs):
        matrix, wanted = _equations(signals(slopes, inputs), keys)
        strength = _separate(matrix, wanted, allowed)
        return strength / strength.amax(1, keepdim=True).clamp_min(1e-300)
    strength = _joint(slopes, inputs, keys[:JOINT], allowed, rank)
    peaks = strength.amax(1, keepdim=True)
    return (strength / peaks.clamp_min(1e-300)) * (peaks > SILENT * peaks.max())


def _floor(step: int) -> float:
    """Return what is added to weights in a round. It falls to 1e-6 of the largest."""
    return float(10.0 ** (-6 * min(1.0, step / (ROUNDS - 5))))


def _separate(matrix: Tensor, wanted: Tensor, allowed: Tensor) -> Tensor:
    """Return the sizes (N, N) of the sparsest solution for each query, by reweighted least squares.

    Args:
        matrix: (H, E / H + 1, N).
        wanted: (H, E / H + 1, N), one column for each query.
        allowed: (N, N).
    """
    weights = allowed.to(matrix)
    strength = weights
    for step in range(ROUNDS):
        scaled = matrix[None] * weights[:, None, None, :]
        dual = _solved(scaled @ matrix.transpose(1, 2)[None], wanted.permute(2, 0, 1)[..., None])
        solved = (scaled.transpose(-1, -2) @ dual)[..., 0]
        strength = solved.square().sum(1).sqrt()
        relative = strength / strength.amax(1, keepdim=True).clamp_min(1e-300)
        weights = (relative + _floor(step)) * allowed
    return strength


def _joint(slopes: Tensor, inputs: Tensor, keys: Tensor, allowed: Tensor, rank: int) -> Tensor:
    """Return the sizes (N, N) of the solution that is sparsest over all queries together."""
    count, tokens, width = keys.shape
    # Only the rank's directions of the inputs carry equations.
    basis = torch.linalg.svd(inputs, full_matrices=False)[2][:rank]
    reduced = inputs @ basis.T
    wanted = (slopes @ basis.T)[: count * width].reshape(count, width, rank).transpose(1, 2)
    queries, others = allowed.nonzero(as_tuple=True)
    matrix = torch.einsum("nr,hne->hnre", reduced[queries], keys[:, others]).flatten(2)
    zero_sum = reduced[queries] * matrix.norm() / matrix.numel() ** 0.5 * width**0.5
    matrix = torch.cat([matrix, zero_sum.expand(count, -1, -1)], 2)
    right = torch.cat([wanted.flatten(1), wanted.new_zeros(count, rank)], 1)[..., None]
    weights = torch.ones(len(queries), dtype=matrix.dtype)
    strength = weights
    for step in range(ROUNDS):
        scaled = matrix * weights[None, :, None]
        dual = _solved(scaled.transpose(1, 2) @ matrix, right)
        strength = (scaled @ dual)[..., 0].square().sum(0).sqrt()
        weights = strength / strength.max().clamp_min(1e-300) + _floor(step)
    return torch.zeros(tokens, tokens, dtype=matrix.dtype).index_put((queries, others), strength)


def _solved(gram: Tensor, right: Tensor) -> Tensor:
    """Return the solution of symmetric systems (..., n, n), with a little of the identity added."""
    floor = 1e-12 * gram.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    found: Tensor = torch.linalg.solve(
        gram + floor * torch.eye(gram.shape[-1], dtype=gram.dtype), right
    )
    return found
