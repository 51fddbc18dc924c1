"""Steps between the kernels on text: which spaces tell something, and inputs and links of known tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from leakgauge.analytic.text.attention_links import Heads, links
from leakgauge.analytic.text.first_tokens import FirstTokens
from leakgauge.analytic.text.independent_tokens import embedding_gradients, independent
from leakgauge.analytic.text.readers import Reader, by_source, capture
from leakgauge.analytic.text.spans import InputSpace, input_space
from leakgauge.core import Inapplicable, Observation, TextDomain, trainable
from leakgauge.federated.layers.embeddings import find_embedding

FEW = 40
"""Tokens with positions that are linked all together, even if they depend on each other."""
BEHIND = 4
"""Most different inputs of layers behind the first attention that test a prefix or a sequence."""


def later_spaces(
    observation: Observation, readers: Sequence[Reader], first: FirstTokens
) -> list[InputSpace]:
    """Return the spaces of the first few inputs behind the attention. There are as many as tokens, or more."""
    groups = by_source(readers)[:BEHIND]
    return [input_space(observation, group, fewest=first.rank) for group in groups]


def strongest(spaces: Sequence[InputSpace], least: int = 1) -> list[InputSpace] | Inapplicable:
    """Return the telling spaces that hold most dimensions. Others have lost weak signals.

    Args:
        spaces: Spaces of inputs that are as many in each of them.
        least: Fewest dimensions, those of the tokens.
    """
    told = [space for space in spaces if space.telling]
    top = max((space.rank for space in told), default=0)
    if top < max([least, *(space.rank for space in spaces)]) or not told:
        ranks = ", ".join(f"{space.rank} of {space.width}" for space in spaces)
        if not any(space.rank for space in spaces):
            return Inapplicable(
                "the gradients of the layers are zero, or smaller than the known noise"
            )
        return Inapplicable(
            "the tokens fill the inputs of the layers, which tell nothing then. Fewer tokens than inputs, or than "
            f"the rank of an adapter, are needed: dimensions {ranks}"
        )
    return [space for space in told if space.rank == top]


def distinct(
    observation: Observation, domain: TextDomain, spaces: Sequence[InputSpace], first: FirstTokens
) -> FirstTokens:
    """Return the tokens without unlikely ones that depend on the others, if there are many."""
    if first.places is None or len(first.tokens) <= max(first.rank, FEW):
        return first
    update, readers = observation.update.tensors, spaces[0].readers
    inputs = inputs_of(observation, domain, readers[0], first)
    slopes = torch.cat([reader.slopes(update) for reader in readers])
    found = find_embedding(observation)
    embeddings = None
    if not isinstance(found, Inapplicable) and not found.tied:
        embeddings = embedding_gradients(update, found, domain.length)
    return independent(first, inputs, slopes, embeddings)


def inputs_of(
    observation: Observation, domain: TextDomain, reader: Reader, first: FirstTokens
) -> Tensor:
    """Return the inputs (N, D) of a layer for tokens at their positions."""
    assert first.places is not None
    rows = first.tokens[:, None].expand(-1, domain.length).contiguous()
    inputs = capture(observation.model, rows, [reader.name])[reader.name]
    return inputs[torch.arange(len(rows)), first.places].double()


def links_between(
    observation: Observation, domain: TextDomain, heads: Heads, first: FirstTokens
) -> Tensor:
    """Return the links (N, N) between the tokens of the batch."""
    assert first.places is not None
    inputs = inputs_of(observation, domain, heads.query, first)
    weights = {each: p.detach() for each, p in trainable(observation.model).items()}
    apart = first.places[:, None] != first.places
    allowed = apart | torch.eye(len(inputs), dtype=torch.bool)
    slopes = heads.slopes(observation.update.tensors)
    return links(slopes, inputs, heads.keys(weights, inputs), allowed)


def dealt(first: FirstTokens, batch: int, length: int) -> list[Tensor]:
    """Return the tokens in one row for each sequence: the n-th token of each position in the n-th row."""
    if first.places is None:
        return [first.tokens[row::batch][:length] for row in range(batch)]
    options = [first.at(place) for place in range(first.length or 0)]
    return [
        torch.stack([tokens[min(row, len(tokens) - 1)] for tokens in options])
        for row in range(batch)
    ]
