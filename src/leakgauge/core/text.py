"""Text: sequences of tokens of a vocabulary, padded to one length."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from leakgauge.core.errors import DataError
from leakgauge.core.ranges import Count, Whole, check_fields
from leakgauge.core.space import InSpace, SearchSpace

NOT_TEXT = "needs text, which a model reads through an embedding of its tokens"
"""Why attacks on text do not run on other data. Equal reasons of several attacks share one line."""
MOST_TOKENS = 2**22
"""Largest vocabulary. Float32 holds each token of it as its own unit coordinate."""


@dataclass(frozen=True)
class TokenSpace:
    """The search space of sequences of tokens: token t is the number t / (V - 1).

    It has no derivatives, since neighboring numbers are unrelated tokens. Attacks on text search among
    the embeddings of a model instead.

    Args:
        vocabulary: Number of tokens V, at least 2.
        length: Number of tokens L of a sequence.
        pad: Token that fills a sequence after its end, or None.
    """

    vocabulary: int
    length: int
    pad: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (L,) of a sequence."""
        return (self.length,)

    @property
    def differentiable(self) -> bool:
        """False: neighboring numbers are unrelated tokens."""
        return False

    @property
    def discrete(self) -> bool:
        """True: only multiples of 1 / (V - 1) are tokens."""
        return True

    def relax(self, examples: Tensor) -> Tensor:
        """Return numbers in [0, 1] for tokens. Numbers are returned unchanged."""
        if examples.is_floating_point():
            return examples
        return examples / (self.vocabulary - 1)

    def to_inputs(self, relaxed: Tensor) -> Tensor:
        """Return the nearest tokens."""
        return self.round(relaxed)

    def round(self, relaxed: Tensor) -> Tensor:
        """Return the nearest tokens. What is not a number becomes the first token."""
        places = (relaxed.nan_to_num(0.0) * (self.vocabulary - 1)).round()
        return places.clamp(0, self.vocabulary - 1).long()

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Return random sequences (count, L) of random lengths, without the padding token inside."""
        shape = (count, self.length)
        if self.pad is None:
            return torch.randint(self.vocabulary, shape, generator=generator)
        tokens = torch.randint(self.vocabulary - 1, shape, generator=generator)
        tokens += tokens >= self.pad
        ends = torch.randint(1, self.length + 1, (count, 1), generator=generator)
        return tokens.masked_fill(torch.arange(self.length) >= ends, self.pad)


@dataclass(frozen=True)
class TextDomain(InSpace):
    """Sequences (L,) of tokens, whole numbers in [0, V). Shorter sequences end with padding.

    Use it for private data that are sentences. The vocabulary and its pieces are public.

    Args:
        vocabulary: Number of tokens V, from 2 to 4,194,304.
        length: Number of tokens L of a sequence, at least 1.
        pad: Token that fills a sequence after its end. None, the default, if all sequences have
            L tokens.
        pieces: Text of each token, with a leading space where a word begins. A byte that is only a
            part of a character is a lone surrogate, as `surrogateescape` makes it. The default is
            empty: then texts show the numbers of tokens.
        special: Tokens that stand for no text, such as those for the begin and the end of a
            sequence. The padding token need not be among them.

    Raises:
        DataError: A field is of another kind, a token is not below V, or there is not one piece for
            each token.

    Example:
        >>> import torch
        >>> import leakgauge as lg
        >>> domain = lg.TextDomain(4, 3, pad=0, pieces=("", " red", " fish", "es"))
        >>> domain.text(torch.tensor([1, 2, 3]))
        'red fishes'
        >>> domain.lengths(torch.tensor([[1, 2, 0]]))
        tensor([2])
    """

    vocabulary: Count
    length: Count
    pad: Whole | None = None
    pieces: tuple[str, ...] = field(default=(), repr=False)
    special: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Raise DataError unless the fields fit together."""
        check_fields(self, DataError)
        if not 2 <= self.vocabulary <= MOST_TOKENS:
            raise self._error(f"from 2 to {MOST_TOKENS} tokens", f"{self.vocabulary} tokens")
        named = [*self.special, *(() if self.pad is None else (self.pad,))]
        wrong = [token for token in named if not 0 <= token < self.vocabulary]
        if wrong:
            raise self._error(f"special tokens below {self.vocabulary}", f"the token {wrong[0]}")
        if self.pieces and len(self.pieces) != self.vocabulary:
            raise self._error(
                f"one piece for each of {self.vocabulary} tokens", f"{len(self.pieces)} pieces"
            )

    @property
    def kind(self) -> str:
        """The word "text"."""
        return "text"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (L,) of one sequence."""
        return (self.length,)

    @property
    def dtype(self) -> torch.dtype:
        """The type of a token, torch.int64."""
        return torch.int64

    @property
    def space(self) -> SearchSpace:
        """Search space of sequences."""
        return TokenSpace(self.vocabulary, self.length, self.pad)

    def lengths(self, tokens: Tensor) -> Tensor:
        """Return the number of tokens of each sequence (..., L) in front of its padding."""
        if self.pad is None:
            return torch.full(tokens.shape[:-1], tokens.shape[-1], device=tokens.device)
        held = torch.arange(1, tokens.shape[-1] + 1, device=tokens.device) * (tokens != self.pad)
        return held.amax(-1)

    def parts(self, tokens: Tensor | Sequence[int]) -> list[str]:
        """Return the text of each token of one sequence (L,), "" for padding and for special tokens."""
        numbers = tokens.tolist() if isinstance(tokens, Tensor) else list(tokens)
        silent = {*self.special, self.pad}
        pieces = ["" if token in silent else self._piece(token) for token in numbers]
        # Several tokens may spell the bytes of one character. The last one of them shows it.
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        parts = [decoder.decode(piece.encode(errors="surrogateescape")) for piece in pieces]
        rest = decoder.decode(b"", final=True)
        return [*parts[:-1], parts[-1] + rest] if rest else parts

    def text(self, tokens: Tensor | Sequence[int]) -> str:
        """Return the text of one sequence (L,)."""
        return "".join(self.parts(tokens)).strip()

    def _piece(self, token: int) -> str:
        """Return the text of a token, its number if the domain has no pieces."""
        return self.pieces[token] if self.pieces else f" {token}"

    def _error(self, expected: str, found: str) -> DataError:
        """Return a DataError about this domain."""
        return DataError(
            "text domain",
            expected=expected,
            found=found,
            remedy="take vocabulary, pad, pieces and special tokens from one tokenizer",
        )
