"""The search space of sentences as embeddings: each token is the row of a table."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from leakgauge.core import InSpace, SearchSpace
from leakgauge.federated.layers.embeddings import UNKNOWN

CHUNK = 2**24
"""Largest number of distances that are held at once."""


@dataclass(frozen=True, eq=False)
class EmbeddingSpace:
    """The search space of sentences (L, d), whose tokens are embeddings. `round` returns tokens (L,).

    Args:
        table: Embeddings (V, d) of all tokens.
        template: Tokens (B, L) of the batch, UNKNOWN where a token is not known.
        bag: Tokens (N,) among which a place is rounded if the model reads its embedding. None for
            all but the padding.
        read: Whether the model reads the embedding of each place (B, L).
        pad: Token of the padding, or None.
    """

    table: Tensor
    template: Tensor
    bag: Tensor | None
    read: Tensor
    pad: int | None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (L, d) of a sentence."""
        return (self.template.shape[1], self.table.shape[1])

    @property
    def differentiable(self) -> bool:
        """True: the model is differentiable in the embeddings."""
        return True

    @property
    def discrete(self) -> bool:
        """False: the simulation takes every embedding."""
        return False

    def relax(self, examples: Tensor) -> Tensor:
        """Return the embeddings of tokens. Embeddings are returned unchanged."""
        return examples if examples.is_floating_point() else self.table[examples]

    def to_inputs(self, relaxed: Tensor) -> Tensor:
        """Return the embeddings unchanged."""
        return relaxed

    def round(self, relaxed: Tensor) -> Tensor:
        """Return the tokens (B, L) nearest to the batch's embeddings (B, L, d). Known tokens stay unchanged."""
        anything = torch.arange(len(self.table), device=relaxed.device)
        if self.pad is not None:
            anything = anything[anything != self.pad]
        found = self._nearest(relaxed, anything)
        if self.bag is not None:
            found = torch.where(self.read, self._nearest(relaxed, self.bag), found)
        return torch.where(self.template == UNKNOWN, found, self.template)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Return embeddings (count, L, d) of random tokens."""
        shape = (count, self.shape[0])
        drawn = torch.randint(len(self.table), shape, generator=generator)
        return self.table[drawn.to(self.table.device)]

    def _nearest(self, embeddings: Tensor, tokens: Tensor) -> Tensor:
        """Return for each embedding (..., d) the nearest of some tokens (N,)."""
        rows = self.table[tokens].to(embeddings)
        flat = embeddings.nan_to_num().flatten(0, -2)
        parts = torch.split(flat, max(1, CHUNK // len(rows)))
        places = torch.cat([torch.cdist(part, rows).argmin(1) for part in parts])
        return tokens[places].view(embeddings.shape[:-1])


@dataclass(frozen=True, eq=False)
class EmbeddingDomain(InSpace):
    """The domain of sentences as embeddings.

    Args:
        embeddings: The search space.
    """

    embeddings: EmbeddingSpace

    @property
    def kind(self) -> str:
        """The word "text"."""
        return "text"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (L, d) of one sentence."""
        return self.embeddings.shape

    @property
    def space(self) -> SearchSpace:
        """The search space."""
        return self.embeddings
