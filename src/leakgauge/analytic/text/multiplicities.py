r"""How often each candidate sequence occurs in a batch, with which label, from the gradient.

The gradient of a batch is the mean of its examples' gradients. So the observed one is a sum of the
candidates' gradients with weights of at least 0:

.. math::

    g^* = \sum_{c, k} w_{ck} \, g_{ck}, \qquad w_{ck} \ge 0,

for sequences c and labels k. A sequence that is not in the batch gets the weight 0.

References:
    Ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor, nn

from leakgauge.core import Observation, trainable
from leakgauge.core.pulse import Beat, quiet
from leakgauge.federated.isolation.probing import probing
from leakgauge.federated.isolation.untouched import untouched

ENTRIES = 1_000
"""Entries of each tensor that are compared, drawn once."""
RELIABLE = 1e-5
"""Least rms of a compared tensor, relative to the largest. The gradient of a key's bias is zero but for rounding."""
LIGHT = 1e-3
"""Weight of the sum of all weights beside the misfit of the gradient."""
LARGEST = 5_000_000
"""Tensors with more entries, such as embeddings, are not compared, unless there are no others."""


@dataclass(frozen=True, eq=False)
class Chosen:
    """The sequences of the batch.

    Args:
        tokens: Sequences (B', L), padded, at most B of them.
        labels: Their labels (B',).
        misfit: Relative error of the compared entries of the gradient.
        tried: Number of candidates.
    """

    tokens: Tensor
    labels: Tensor
    misfit: float
    tried: int


def choose(
    observation: Observation,
    candidates: Tensor,
    lengths: Tensor,
    *,
    beat: Beat = quiet,
) -> Chosen:
    """Return the sequences that the gradient holds, each as often as it occurs.

    Args:
        observation: The observation.
        candidates: Sequences (N, L), padded.
        lengths: Their numbers of tokens (N,).
        beat: Called after each candidate.
    """
    classes = observation.classes or 1
    entries = compared(observation)
    wanted = picked(observation.update.tensors, entries)
    if observation.training.kind == "delta":
        wanted = -wanted
    columns = []
    for tokens in candidates:
        columns += gradients(observation, tokens[None], entries, classes)
        beat()
    weights, misfit = _nonnegative(torch.stack(columns, 1), wanted)
    sizes = lengths.repeat_interleave(classes).double()
    counts = _counts(weights, sizes, observation.batch_size)
    held = torch.arange(len(counts)).repeat_interleave(counts)
    return Chosen(candidates[held // classes], held % classes, misfit, len(candidates))


def compared(observation: Observation) -> dict[str, tuple[Tensor, float]]:
    """Return for each tensor the entries that are compared, and the factor by which they are scaled.

    All tensors have equal weight. Only some depend on which tokens stand together, and these may be small.
    Under known noise, all entries have equal weight, since all have the same error.
    """
    update = observation.update.tensors
    small = {name: t for name, t in update.items() if t.numel() <= LARGEST} or update
    generator = torch.Generator().manual_seed(0)
    chosen, sizes = dict[str, Tensor](), dict[str, float]()
    for name, tensor in small.items():
        count = min(ENTRIES, tensor.numel())
        chosen[name] = torch.randint(tensor.numel(), (count,), generator=generator)
        sizes[name] = float(tensor.flatten()[chosen[name]].double().square().mean().sqrt())
    least = RELIABLE * max(sizes.values())
    noise = observation.noise
    if noise is not None and noise.std:
        return {name: (index, 1 / noise.std) for name, index in chosen.items()}
    return {
        name: (index, 1 / (size * len(index) ** 0.5))
        for name, index in chosen.items()
        if (size := sizes[name]) > least
    }


def picked(tensors: Mapping[str, Tensor], entries: Mapping[str, tuple[Tensor, float]]) -> Tensor:
    """Return the compared entries (E,) of a gradient, in float64."""
    return torch.cat(
        [
            tensors[name].flatten()[index].double() * scale
            for name, (index, scale) in entries.items()
        ]
    )


def gradients(
    observation: Observation,
    tokens: Tensor,
    entries: Mapping[str, tuple[Tensor, float]],
    classes: int,
) -> list[Tensor]:
    """Return the compared entries (E,) of the gradient of one sequence (1, L), for each label."""
    model: nn.Module = observation.model
    parameters = trainable(model)
    rows = []
    with probing(), untouched(model, observation.loss), torch.enable_grad():
        output = model(tokens)
        for label in range(classes):
            loss = observation.loss(output, torch.tensor([label]))
            found = torch.autograd.grad(
                loss, [parameters[name] for name in entries], retain_graph=label + 1 < classes
            )
            rows.append(picked(dict(zip(entries, found, strict=True)), entries))
    return rows


def _nonnegative(matrix: Tensor, wanted: Tensor) -> tuple[Tensor, float]:
    """Return the weights (N,) of at least 0 for the columns of a matrix, and the relative misfit."""
    scale = matrix.norm(dim=0).clamp_min(1e-300)
    # The triangular factor has the same least squares, with few rows.
    q, r = torch.linalg.qr(matrix / scale)
    # With two classes, a sequence's two gradients point against each other. The last row makes the
    # sum of all weights small, so that at most one of them counts.
    size = float(wanted.norm())
    rows = torch.cat([r, torch.full_like(r[:1], LIGHT)]) * size
    right = torch.cat([q.T @ wanted, wanted.new_zeros(1)])
    found, _ = nnls(rows.numpy(), right.numpy(), maxiter=50 * r.shape[1])
    found = found * size
    weights = torch.from_numpy(np.asarray(found)) / scale
    left = (matrix @ weights - wanted).norm() / wanted.norm()
    return weights, float(left)


def _counts(weights: Tensor, sizes: Tensor, batch: int) -> Tensor:
    """Return how often each column occurs. The counts sum to at most the batch size.

    In a mean over examples, all have equal weight. In a mean over tokens, they weigh by their sizes. The
    choice that gives nearly whole numbers is taken.
    """
    options = []
    for each in (weights, weights / sizes):
        expected = each / each.sum().clamp_min(1e-300) * batch
        options.append((float((expected - expected.round()).abs().sum()), expected))
    counts = min(options, key=lambda option: option[0])[1].round().long()
    while int(counts.sum()) > batch:
        counts[torch.where(counts > 0, weights, torch.inf).argmin()] -= 1
    return counts
