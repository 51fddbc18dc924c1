"""Text as embeddings: the observation that a search gets, and the way back to tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from leakgauge.attacks.labels import granted
from leakgauge.attacks.text_lengths import Lengths
from leakgauge.core import (
    Inapplicable,
    Observation,
    Reconstruction,
    Status,
    TextDomain,
)
from leakgauge.federated.layers.embeddings import UNKNOWN, TokenEmbedding
from leakgauge.federated.training.rounds import Rounds
from leakgauge.inversion import (
    Direct,
    FixedLabels,
    Joint,
    Known,
    Labels,
)
from leakgauge.inversion.objectives.distances import MATCHED
from leakgauge.inversion.search.judgment import residual_of
from leakgauge.inversion.simulation.embedded import embed
from leakgauge.inversion.simulation.embedding_space import EmbeddingSpace


@dataclass(frozen=True, eq=False)
class EmbeddedText:
    """An observation of text, and the same observation with embeddings as its inputs.

    Args:
        tokens: The observation, whose model reads tokens.
        searched: The observation whose model reads embeddings.
        space: The search space of the embeddings.
        notes: What was assumed on words, for the record.
    """

    tokens: Observation
    searched: Observation
    space: EmbeddingSpace
    notes: tuple[str, ...]

    @property
    def unknown(self) -> Tensor:
        """Whether the token of each place (B, L) is unknown."""
        return self.space.template == UNKNOWN

    @property
    def held(self) -> Tensor:
        """Whether each place (B, L) holds a token, not padding."""
        return self.space.template != (UNKNOWN - 1 if self.space.pad is None else self.space.pad)

    @property
    def scale(self) -> float:
        """Standard deviation of the values of the vocabulary's embeddings."""
        return float(self.space.table.std())

    def variables(self, noise: float = 1.0) -> Direct:
        """Return embeddings in units of their deviation, which start from N(0, `noise`^2)."""
        return Direct(center=0.0, spread=max(self.scale, 1e-12), noise=noise)

    def tokens_of(self, found: Reconstruction) -> Reconstruction:
        """Return a reconstruction of tokens from one of embeddings. Its residual is that of the tokens' own update."""
        rounded = replace(
            found,
            inputs=self.space.round(found.inputs),
            trajectory=tuple(
                replace(s, inputs=self.space.round(s.inputs)) for s in found.trajectory
            ),
            notes=(*self.notes, *found.notes),
        )
        residual = residual_of(self.tokens, rounded)
        if residual is None:
            return replace(rounded, residual=None, status=Status.UNCONVERGED)
        status = Status.CONVERGED if residual <= MATCHED else Status.UNCONVERGED
        if found.status is Status.DIVERGED and status is Status.UNCONVERGED:
            status = found.status
        message = f"the tokens match the update to {residual:.2g} of its norm"
        return replace(rounded, residual=residual, status=status, message=message)

    def residual_of_shorter(self, found: Reconstruction, lengths: Lengths) -> float:
        """Return the residual of tokens whose sentences end after `lengths`, with the known last token there."""
        tokens = found.inputs.clone()
        for row, known, length in zip(tokens, self.space.template, lengths, strict=True):
            end = int((known != self.space.pad).sum())
            if length < end and known[end - 1] != UNKNOWN:
                row[length - 1] = known[end - 1]
            row[length:] = self.space.pad or 0
        residual = residual_of(self.tokens, replace(found, inputs=tokens))
        return math.inf if residual is None else residual


def labels_of(text: EmbeddedText, *, joint: bool = False) -> Labels:
    """Return the rule for the labels of a text.

    A language model has none. Otherwise labels are granted, or optimized if `joint`, or recovered.
    """
    observation = text.tokens
    if observation.classes == 1:
        device = observation.update.like.device
        return FixedLabels(torch.zeros(observation.batch_size, dtype=torch.long, device=device))
    return Joint() if joint and not granted(observation) else Known()


def embed_text(
    observation: Observation,
    embedding: TokenEmbedding,
    words: Tensor | None,
    lengths: Lengths,
    *,
    first: int | None,
    last: int | None,
) -> EmbeddedText | Inapplicable:
    """Return the observation with embeddings as its inputs, or the reason why this is not possible.

    Args:
        observation: The observation of a model that reads tokens.
        embedding: Its token embedding.
        words: Tokens (N,) to which places are rounded, or None for all.
        lengths: Numbers of tokens of the sentences.
        first: Token that begins each sentence, or None if it is not known.
        last: Token that ends each sentence, or None if it is not known.
    """
    domain = observation.domain
    assert isinstance(domain, TextDomain), "an embedding was found"
    if isinstance(observation.training, Rounds):
        return Inapplicable("needs the update of one round, not of several")
    template = _template(domain, lengths, first, last).to(observation.update.like.device)
    searched = embed(observation, embedding, template, words)
    if isinstance(searched, Inapplicable):
        return searched
    space = searched.domain.space  # type: ignore[attr-defined]
    counted = "all tokens" if words is None else f"{len(words)} tokens, whose embeddings changed"
    return EmbeddedText(observation, searched, space, (f"vocabulary: {counted}",))


def _template(
    domain: TextDomain, lengths: Sequence[int], first: int | None, last: int | None
) -> Tensor:
    """Return tokens (B, L) of sentences of these lengths, UNKNOWN where they are not known."""
    template = torch.full((len(lengths), domain.length), UNKNOWN)
    for row, length in zip(template, lengths, strict=True):
        if domain.pad is not None:
            row[length:] = domain.pad
        if first is not None:
            row[0] = first
        if last is not None:
            row[length - 1] = last
    return template
