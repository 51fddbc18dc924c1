"""The span of the inputs of the first linear layer that reads each token."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from leakgauge.analytic.text.readers import by_source, layers_of
from leakgauge.core import Inapplicable, Observation, ProbeError, TextDomain
from leakgauge.core.text import NOT_TEXT

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
        observation: The observation of a model that reads tokens.
        tokens: Number of tokens in the batch, the largest rank. Under noise, every singular value
            differs from zero, and the largest ones are kept.
    """
    if not isinstance(observation.domain, TextDomain):
        return Inapplicable(NOT_TEXT)
    update = observation.update.tensors
    try:
        layers = layers_of(observation.model, observation.domain, update)
    except ProbeError as error:
        return Inapplicable(str(error))
    if isinstance(layers, Inapplicable):
        return layers
    # An attention of torch keeps its weights to itself, so a search cannot reach the module's input.
    plain = [reader for reader, _ in layers if reader.weight == f"{reader.name}.weight"]
    for group in by_source(plain):
        name, width = group[0].name, group[0].width
        held = torch.cat([reader.slopes(update) for reader in group])
        if not bool(held.any()):
            continue
        _, sizes, basis = torch.linalg.svd(held, full_matrices=False)
        rank = min(int((sizes > RANK * sizes[0]).sum()), tokens)
        # Behind a normalization, the inputs of any batch fill one dimension fewer than there are.
        if tokens >= width - 1 or rank >= width - 1:
            return Inapplicable(
                f"{tokens} tokens for {width} dimensions: the gradient of {name!r} tells no span"
            )
        return Span(name, basis[:rank].to(observation.update.like))
    return Inapplicable("no linear layer with a gradient reads each token by itself")
