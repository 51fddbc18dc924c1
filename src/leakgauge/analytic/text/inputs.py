"""The span of the inputs of the first linear layer that reads each token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from leakgauge.core import Inapplicable, Observation, ProbeError, deep_copy, trainable
from leakgauge.federated.isolation.probing import probing
from leakgauge.federated.layers.dropout import make_probes
from leakgauge.federated.training.fedsgd import stateless

RANK = 1e-6
"""Singular value, relative to the largest, below which a direction is rounding error."""


@dataclass(frozen=True, eq=False)
class Span:
    """The span of the inputs of a layer.

    Args:
        layer: Name of the layer.
        basis: Orthonormal basis (r, d).
    """

    layer: str
    basis: Tensor


def span_of_inputs(observation: Observation, tokens: int) -> Span | Inapplicable:
    """Return the span of the inputs of the first layer that reads each token, or the reason why there is none.

    The gradient of a weight is the sum of products of its inputs with slopes. Layers that read the
    same input, such as queries and keys, give one span together. Layers whose gradient is zero are
    passed over.

    Args:
        observation: The observation. Its model may read embeddings.
        tokens: Number of tokens in the batch, the largest rank. Under noise, every singular value
            differs from zero, and the largest ones are kept.
    """
    try:
        groups = _readers(observation)
    except ProbeError as error:
        return Inapplicable(str(error))
    for names, width in groups:
        rows = [_rows(observation, name, width) for name in names]
        held = torch.cat([r for r in rows if r is not None]).double()
        if not bool(held.any()):
            continue
        _, sizes, basis = torch.linalg.svd(held, full_matrices=False)
        rank = min(int((sizes > RANK * sizes[0]).sum()), tokens)
        # Behind a normalization, the inputs of any batch fill one dimension fewer than there are.
        if tokens >= width - 1 or rank >= width - 1:
            return Inapplicable(
                f"{tokens} tokens for {width} dimensions: the gradient of {names[0]!r} tells no span"
            )
        return Span(names[0], basis[:rank].to(observation.update.like))
    return Inapplicable("no linear layer with a gradient reads each token by itself")


def _readers(observation: Observation) -> list[tuple[list[str], int]]:
    """Return layers that read the same input of each token, with its width, in the order in which they run."""
    model = deep_copy(observation.model)
    trained = trainable(model)
    count, length = observation.batch_size, observation.domain.shape[0]
    seen: list[tuple[Tensor, list[str]]] = []

    def note(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            read = given[0] if given else None
            if not isinstance(read, Tensor) or read.shape[:2] != (count, length) or read.ndim != 3:
                return
            for earlier, names in seen:
                if earlier is read:
                    names.append(name)
                    return
            seen.append((read, [name]))

        return hook

    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        matrix = isinstance(weight, Tensor) and weight.ndim == 2
        if matrix and f"{name}.weight" in trained and not isinstance(module, nn.Embedding):
            module.register_forward_pre_hook(note(name))
    with probing(), torch.no_grad(), torch.random.fork_rng(devices=[]):
        stateless(model, trainable(model), make_probes(observation, count))
    return [(names, read.shape[2]) for read, names in seen]


def _rows(observation: Observation, layer: str, width: int) -> Tensor | None:
    """Return the gradient of a layer's weight with an input in each row (N, d), or None if it has another form."""
    gradient = observation.update.tensors.get(f"{layer}.weight")
    if gradient is None:
        return None
    linear = isinstance(observation.model.get_submodule(layer), nn.Linear)
    # Layers of GPT-2 hold the transpose of a linear layer's weight.
    rows = gradient if linear or gradient.shape[0] != width else gradient.T
    return rows if rows.shape[1] == width else None
