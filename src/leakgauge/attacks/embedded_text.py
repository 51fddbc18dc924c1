"""Gradient matching on text: a search among embeddings, whose result is rounded to tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from leakgauge.analytic.text.bag import token_bag
from leakgauge.attacks.labels import granted, plan_labels
from leakgauge.attacks.recipe import Labeled, label_if_needed
from leakgauge.core import (
    BaseAttack,
    Inapplicable,
    Observation,
    Plan,
    Progress,
    Reconstruction,
    Seeds,
    Status,
    TextDomain,
    scale_progress,
)
from leakgauge.core.ranges import Count, Whole
from leakgauge.federated.layers.embeddings import UNKNOWN, TokenEmbedding, find_embedding
from leakgauge.federated.training.rounds import Rounds
from leakgauge.inversion import Direct, FixedLabels, GradientMatching, Joint, Known, Labels
from leakgauge.inversion.objectives.distances import MATCHED
from leakgauge.inversion.search.engine import Ready
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
        notes: What was assumed on lengths and words, for the record.
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


class TextMatching(BaseAttack):
    """An attack that is one `GradientMatching` on embeddings. Subclasses are frozen dataclasses.

    They override `matching`, and have the options of `LAMP` on words and lengths.
    """

    discrete: ClassVar[bool] = True

    bag: bool
    lengths: tuple[Count, ...]
    first: Whole | None
    last: Whole | None

    def matching(self, text: EmbeddedText) -> GradientMatching | Inapplicable:
        """Return the composition of this attack on a text."""
        raise NotImplementedError

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"batch_size"})

    def prepare(self, observation: Observation) -> Plan | Inapplicable:
        text = embed_text(
            observation, bag=self.bag, lengths=self.lengths, first=self.first, last=self.last
        )
        if isinstance(text, Inapplicable):
            return text
        matching = self.matching(text)
        if isinstance(matching, Inapplicable):
            return matching
        planned = None
        if isinstance(matching.labels, Known) and not granted(observation):
            planned = plan_labels(observation)
        found = label_if_needed(matching, text.searched, planned)
        if isinstance(found, Inapplicable):
            return found
        return Plan(evaluations=matching.budget, search=partial(_search, text, found))


def _search(
    text: EmbeddedText, matching: Labeled | Ready, seeds: Seeds, progress: Progress
) -> Reconstruction:
    """Search among embeddings, and return tokens."""
    told = scale_progress(progress, 0.0, 1.0, finish=text.tokens_of)
    return text.tokens_of(matching.search(seeds, told))


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
    *,
    bag: bool,
    lengths: Sequence[int],
    first: int | None,
    last: int | None,
) -> EmbeddedText | Inapplicable:
    """Return the observation with embeddings as its inputs, or the reason why this is not possible.

    Args:
        observation: The observation of a model that reads tokens.
        bag: Whether tokens are rounded to those whose embeddings have a gradient.
        lengths: Numbers of tokens of the sentences if they are known. Empty if not.
        first: Token that begins each sentence, or None if it is not known.
        last: Token that ends each sentence, or None if it is not known.
    """
    embedding = find_embedding(observation)
    if isinstance(embedding, Inapplicable):
        return embedding
    domain = observation.domain
    assert isinstance(domain, TextDomain), "find_embedding() finds none for other domains"
    if isinstance(observation.training, Rounds):
        return Inapplicable("needs the update of one round, not of several")
    sizes = _sizes(observation, embedding, lengths)
    if isinstance(sizes, Inapplicable):
        return sizes
    held, note = sizes
    words = None if embedding.tied or not bag else token_bag(observation, embedding)
    template = _template(domain, held, first, last).to(observation.update.like.device)
    searched = embed(observation, embedding, template, words)
    if isinstance(searched, Inapplicable):
        return searched
    space = searched.domain.space  # type: ignore[attr-defined]
    counted = "all tokens" if words is None else f"{len(words)} tokens, whose embeddings changed"
    return EmbeddedText(observation, searched, space, (note, f"vocabulary: {counted}"))


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


def _sizes(
    observation: Observation, embedding: TokenEmbedding, lengths: Sequence[int]
) -> tuple[list[int], str] | Inapplicable:
    """Return the number of tokens of each sentence, and a note on the source. Or the reason why they do not fit."""
    count, longest = observation.batch_size, observation.domain.shape[0]
    if lengths:
        if len(lengths) != count or not all(1 <= n <= longest for n in lengths):
            return Inapplicable(
                f"lengths: expected {count} numbers from 1 to {longest}, found {tuple(lengths)}"
            )
        return list(lengths), "lengths: as given"
    assert isinstance(observation.domain, TextDomain), "the caller checked the domain"
    if observation.domain.pad is None:
        return [longest] * count, "lengths: all sentences are full, since the domain has no padding"
    read = longest_sentence(observation, embedding)
    if read is None:
        return (
            [longest] * count,
            f"lengths: assumed {longest} tokens, since no learned position tells the length",
        )
    told = "the gradient of the position embedding"
    if count == 1:
        return [read], f"lengths: {read} tokens, from {told}"
    return [read] * count, f"lengths: assumed {read} tokens for all, the longest from {told}"


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
