"""Lengths of the sentences of a batch: given, read from the update, or guessed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from leakgauge.core import Inapplicable, Observation, TextDomain
from leakgauge.federated.layers.embeddings import UNKNOWN, TokenEmbedding
from leakgauge.inversion.simulation.embedded import embed

Lengths = tuple[int, ...]
"""Number of tokens of each sentence of a batch."""


@dataclass(frozen=True)
class Guesses:
    """Possible lengths of the sentences of a batch.

    Args:
        options: The lengths of the batch, the longest first.
        source: A note on the source.
        exact: Whether the lengths are known.
    """

    options: tuple[Lengths, ...]
    source: str
    exact: bool = True


def guess_lengths(
    observation: Observation,
    embedding: TokenEmbedding,
    given: Sequence[int],
    *,
    words: int,
    least: int,
    most: int,
) -> Guesses | Inapplicable:
    """Return the possible lengths, or the reason why the given ones do not fit.

    Args:
        observation: The observation of a model that reads tokens.
        embedding: Its token embedding.
        given: The lengths if they are known. Empty if not.
        words: Number of different tokens that the batch is known to hold.
        least: Fewest tokens of a sentence.
        most: Largest number of guesses for one sentence.
    """
    domain, count = observation.domain, observation.batch_size
    assert isinstance(domain, TextDomain), "an embedding was found"
    longest = domain.length
    if given:
        if len(given) != count or not all(least <= n <= longest for n in given):
            return Inapplicable(
                f"lengths: expected {count} numbers from {least} to {longest}, found {tuple(given)}"
            )
        return Guesses((tuple(given),), "lengths: as given")
    if domain.pad is None:
        source = "lengths: all sentences are full, since the domain has no padding"
        return Guesses(((longest,) * count,), source)
    read = longest_sentence(observation, embedding)
    if count == 1 and read is not None:
        return Guesses(
            ((read,),), f"lengths: {read} tokens, from the position embedding's gradient"
        )
    if read is not None:
        source = (
            f"lengths: the longest sentence has {read} tokens, by the position embedding's gradient"
        )
        return Guesses(((read,) * count,), source, exact=False)
    source = f"lengths: at most {longest} tokens, since no learned position tells the length"
    options = [(longest,) * count]
    if count == 1 and most:
        start = max(least, min(words, longest))
        spread = torch.linspace(longest, start, min(most, longest - start + 1)).round()
        options += [(int(n),) for n in spread]
    return Guesses(tuple(dict.fromkeys(options)), source, exact=False)


def longest_sentence(observation: Observation, embedding: TokenEmbedding) -> int | None:
    """Return the number of tokens of the longest sentence, or None if no learned position tells it.

    The gradient of the position embedding is zero in the rows of places that no sentence reaches.
    """
    rows = observation.update.tensors.get(embedding.positions or "")
    if rows is None:
        return None
    norms = rows[list(embedding.rows)].double().norm(dim=1)
    reached = (norms > torch.finfo(rows.dtype).eps * norms.max()).nonzero()
    if len(reached) == 0:
        return None
    length = observation.domain.shape[0]
    template = torch.full((observation.batch_size, length), UNKNOWN, device=rows.device)
    full = embed(observation, embedding, template, None)
    unread = 0
    if not isinstance(full, Inapplicable):
        # The last token of a causal language model is predicted, and its place is not read.
        places = full.domain.space.read.any(0).nonzero()  # type: ignore[attr-defined]
        unread = length - 1 - int(places.max()) if len(places) else 0
    return min(length, int(reached.max()) + 1 + unread)


def trim_lengths(
    tokens: Tensor, lengths: Lengths, least: int, residual: Callable[[Lengths], float]
) -> Lengths:
    """Return lengths, none larger than the given ones, whose sentences match the update best.

    The lengths are shortened one sentence after the other.

    Args:
        tokens: Sentences (B, L).
        lengths: Their lengths.
        least: Fewest tokens of a sentence.
        residual: Returns the residual of the sentences at other lengths.
    """
    best, kept = residual(lengths), lengths
    for row in range(len(tokens)):
        for length in range(lengths[row] - 1, least - 1, -1):
            tried = (*kept[:row], length, *kept[row + 1 :])
            value = residual(tried)
            if value < best:
                best, kept = value, tried
    return kept
