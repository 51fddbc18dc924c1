"""Tokens, and their positions, whose first-layer inputs lie in the spaces that the gradients span."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from leakgauge.analytic.text.readers import capture
from leakgauge.analytic.text.spans import CLEAR, InputSpace, widest_gap
from leakgauge.core import Inapplicable, TextDomain
from leakgauge.core.pulse import Beat, quiet

FINEST = 1e-6
"""Distances below this are rounding."""
MOST = 64
"""Most tokens for each dimension. Tokens at several positions admit others there, which depend on them."""
CHUNK = 1 << 24
"""Most numbers of one layer's inputs that are held at once."""


@dataclass(frozen=True, eq=False)
class FirstTokens:
    """The tokens of a batch, with their positions if the layers tell them.

    Args:
        tokens: Tokens (M,).
        places: Their positions (M,), or None if the layers do not depend on the position.
        inside: Largest distance of one of them from the spaces.
        outside: Smallest distance of any other token.
        rank: Largest number of dimensions of a space.
    """

    tokens: Tensor
    places: Tensor | None
    inside: float
    outside: float
    rank: int

    def at(self, place: int) -> Tensor:
        """Return the tokens that may stand at a position."""
        return self.tokens if self.places is None else self.tokens[self.places == place]

    @property
    def length(self) -> int | None:
        """Number of positions that have a token, or None if positions are unknown."""
        return None if self.places is None else 1 + int(self.places.max())


def first_tokens(
    model: nn.Module,
    domain: TextDomain,
    spaces: Sequence[InputSpace],
    *,
    bag: Tensor | None = None,
    beat: Beat = quiet,
) -> FirstTokens | Inapplicable:
    """Return the tokens whose inputs lie in all spaces.

    Args:
        model: The model.
        domain: The domain of the text.
        spaces: Spaces of layers that read each token alone.
        bag: Tokens that may occur. None for the whole vocabulary.
        beat: Called after each chunk.
    """
    told = [space for space in spaces if space.telling]
    if not told:
        ranks = ", ".join(f"{space.rank} for {space.width}" for space in spaces)
        return Inapplicable(
            f"the tokens of the batch fill the first layer's inputs: dimensions {ranks}"
        )
    vocabulary = torch.arange(domain.vocabulary) if bag is None else bag.cpu()
    if domain.pad is not None:
        vocabulary = vocabulary[vocabulary != domain.pad]
    positional = any(reader.positional for space in told for reader in space.readers)
    places = domain.length if positional else 1
    distances = _distances(model, vocabulary, places, told, beat)
    rank = max(space.rank for space in told)
    # Other tokens lie about as far away as a random vector.
    typical = float(distances.median())
    threshold, ratio = widest_gap(distances, FINEST, typical / 2, some=True)
    inside = (distances <= threshold).nonzero()
    if len(inside) > MOST * rank:
        return Inapplicable(
            f"{len(inside)} pairs of token and position lie in a span of {rank} dimensions: there are too many "
            "tokens in the batch for the width of the first layer, or its inputs hardly differ"
        )
    if ratio < CLEAR or not len(inside):
        return Inapplicable(
            "the first layer's inputs do not tell tokens apart: the widest gap of distances has the ratio "
            f"{ratio:.2g}, with {len(inside)} tokens below it for {rank} dimensions"
        )
    return FirstTokens(
        vocabulary[inside[:, 0]],
        inside[:, 1] if positional else None,
        float(distances[distances <= threshold].max()),
        float(distances[distances > threshold].min()),
        rank,
    )


def _distances(
    model: nn.Module, vocabulary: Tensor, places: int, spaces: Sequence[InputSpace], beat: Beat
) -> Tensor:
    """Return the largest distance over spaces, (V, L), of each token at each position."""
    names = [space.readers[0].name for space in spaces]
    widest = max(space.width for space in spaces)
    step = max(1, CHUNK // (places * widest))
    found = []
    for part in torch.split(vocabulary, step):
        inputs = capture(model, part[:, None].expand(-1, places).contiguous(), names)
        each = [s.distance(inputs[s.readers[0].name]) for s in spaces]
        found.append(torch.stack(each).amax(0))
        beat()
    return torch.cat(found)
