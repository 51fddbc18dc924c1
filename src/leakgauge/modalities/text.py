"""The modality of text: scored by the tokens that were read, shown as sentences side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from leakgauge import metrics
from leakgauge.core import DataError, Domain, TextDomain
from leakgauge.metrics.leak import TEXT_RULE, LeakRule
from leakgauge.modalities.modality import Content, Layout, Metric, Modality, Save
from leakgauge.records import Headline, Reading, Sentence, Sentences, Token

ROUGE: dict[str, metrics.Rouge] = {"rouge1": "rouge1", "rouge2": "rouge2", "rouge_l": "rougeL"}
"""Names in the package rouge-score of the ROUGE scores in records."""


class TextModality(Modality):
    """The modality of text. The score of a sentence is the fraction of its tokens that were read.

    A token that was read in its sentence counts, even at another place. Tokens for padding, and for
    the begin and the end of a sequence, are public and do not count.

    Example:
        >>> import leakgauge as lg
        >>> data = lg.data.sentences()
        >>> lg.modalities.modality_of(data.domain).headline.title
        'tokens read'
    """

    headline: ClassVar[Headline] = Headline(
        metric="token_bag",
        heading="tokens",
        title="tokens read",
        unit="tokens read",
        format="percent",
        better="higher",
        reads="{score} of a sentence's tokens read",
        reads_exactly="all of a sentence's tokens read",
    )
    layout: ClassVar[Layout] = "sentences"
    rule: ClassVar[LeakRule | None] = TEXT_RULE

    def metrics(self, domain: Domain, decoys: Tensor) -> dict[str, Metric]:
        """Return the metrics of text, by name. ROUGE is added if its package is installed.

        Raises:
            DataError: The domain is not a TextDomain.
        """
        text = as_text(domain)
        counts = (metrics.token_bag, metrics.token_accuracy, metrics.exact, metrics.batch_bag)
        chosen: dict[str, Metric] = {
            each.__name__: partial(each, silent=silent(text)) for each in counts
        }
        if metrics.no_rouge() is None:
            for name, kind in ROUGE.items():
                chosen[name] = partial(metrics.rouge, kind=kind, text=text.text)
        return chosen

    def coordinates(self, domain: Domain, examples: Tensor) -> Tensor:
        """Return the tokens unchanged, or the nearest tokens of relaxed values."""
        return as_text(domain).space.round(examples) if examples.is_floating_point() else examples

    def assignment(self, domain: Domain, truth: Tensor, guess: Tensor) -> Tensor:
        """Return the index (B,) of the reconstruction for each original, with the most tokens read."""
        return metrics.assign_tokens(
            truth, self.coordinates(domain, guess), silent=silent(as_text(domain))
        )

    def content_of(self, domain: Domain, sides: Mapping[str, Tensor], save: Save) -> Content:
        """Return the sentences token by token, with where each token was read."""
        text = as_text(domain)
        truth = sides["original"]
        found, blind = (
            self.coordinates(domain, sides[name]) for name in ("reconstruction", "control")
        )
        return Content(
            sentences=Sentences(
                original=_sentences(text, truth, found),
                reconstruction=_sentences(text, found, truth),
                control=_sentences(text, blind, truth[: len(blind)]),
            )
        )

    def compared_by(self, domain: Domain) -> str | None:
        """Return how ROUGE was computed, or why it was not."""
        return metrics.no_rouge() or "ROUGE by the package rouge-score, without stemming"


def as_text(domain: Domain) -> TextDomain:
    """Return the domain, or raise DataError unless it is a TextDomain."""
    if isinstance(domain, TextDomain):
        return domain
    raise DataError(
        f"domain {domain.kind!r}",
        expected="a leakgauge.TextDomain",
        found=f"a {type(domain).__name__}",
        remedy="use TextDomain, or give the domain another kind or its own modality",
    )


def silent(domain: TextDomain) -> frozenset[int]:
    """Return the tokens that stand for no text."""
    return frozenset(domain.special) | (frozenset() if domain.pad is None else {domain.pad})


def _sentences(domain: TextDomain, shown: Tensor, other: Tensor) -> tuple[Sentence, ...]:
    """Return sequences (B, L) token by token, with where each token stands in the `other` ones."""
    hidden = silent(domain)
    elsewhere = Counter(other.flatten().tolist())
    return tuple(
        _sentence(domain, tokens, counterpart, elsewhere, hidden)
        for tokens, counterpart in zip(shown, other, strict=True)
    )


def _sentence(
    domain: TextDomain,
    tokens: Tensor,
    other: Tensor,
    batch: Counter[int],
    hidden: frozenset[int],
) -> Sentence:
    """Return one sequence (L,) token by token, with where each token stands in the `other` one, or in the batch."""
    same = (tokens == other).tolist()
    # Tokens at their place take their partners first. The rest share what is left.
    left = Counter(torch.masked_select(other, tokens != other).tolist())
    outside = batch - Counter(other.tolist())
    found = list[Token]()
    for token, piece, placed in zip(tokens.tolist(), domain.parts(tokens), same, strict=True):
        if token in hidden:
            continue
        where: Reading = "nowhere"
        if placed:
            where = "place"
        elif left[token] > 0:
            where = "sentence"
            left[token] -= 1
        elif outside[token] > 0:
            where = "batch"
        found.append(Token(text=piece, read=where))
    return tuple(found)
