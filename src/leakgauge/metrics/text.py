"""Matches of tokens and overlaps of words, for sequences of tokens.

Tokens that stand for no text, such as padding and the marks for the begin and the end of a sequence,
are public. They are neither wanted nor read.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any, Literal

import torch
from torch import Tensor

from leakgauge.core import DataError

Rouge = Literal["rouge1", "rouge2", "rougeL"]


def token_accuracy(truth: Tensor, guess: Tensor, *, silent: Collection[int] = ()) -> Tensor:
    """Compute the fraction of the tokens that were read at their place, for each sequence.

    The value is from 0 to 1. Higher values mean that more has leaked.

    Args:
        truth: Tokens (B, L) of the originals.
        guess: Tokens (B, L) of the reconstructions.
        silent: Tokens that stand for no text.

    Returns:
        The values (B,). A sequence without text has 0.

    Raises:
        DataError: The shapes differ or are not (B, L), or the originals are not whole numbers.

    Example:
        >>> import torch
        >>> import leakgauge as lg
        >>> truth, guess = torch.tensor([[7, 8, 9, 0]]), torch.tensor([[7, 9, 8, 0]])
        >>> lg.metrics.token_accuracy(truth, guess, silent=(0,)).round(decimals=2)
        tensor([0.3300], dtype=torch.float64)
    """
    truth, guess = as_tokens(truth, guess, "token_accuracy")
    wanted = _wanted(truth, silent)
    return ((truth == guess) & wanted).sum(1).double() / wanted.sum(1).clamp_min(1)


def token_bag(truth: Tensor, guess: Tensor, *, silent: Collection[int] = ()) -> Tensor:
    """Compute the fraction of the tokens that were read at any place of their sequence, for each sequence.

    A token that stands twice in the original must be read twice. The value is from 0 to 1. Higher
    values mean that more has leaked.

    Args:
        truth: Tokens (B, L) of the originals.
        guess: Tokens (B, L) of the reconstructions.
        silent: Tokens that stand for no text.

    Returns:
        The values (B,). A sequence without text has 0.

    Raises:
        DataError: The shapes differ or are not (B, L), or the originals are not whole numbers.

    Example:
        >>> import torch
        >>> import leakgauge as lg
        >>> truth, guess = torch.tensor([[7, 8, 9, 0]]), torch.tensor([[7, 9, 8, 0]])
        >>> lg.metrics.token_bag(truth, guess, silent=(0,))
        tensor([1.], dtype=torch.float64)
    """
    truth, guess = as_tokens(truth, guess, "token_bag")
    common = [
        (_bag(row, silent) & _bag(other, silent)).total()
        for row, other in zip(truth.tolist(), guess.tolist(), strict=True)
    ]
    return torch.tensor(common, dtype=torch.float64) / _wanted(truth, silent).sum(1).clamp_min(1)


def batch_bag(truth: Tensor, guess: Tensor, *, silent: Collection[int] = ()) -> Tensor:
    """Compute the fraction of the tokens that were read anywhere in the batch, for each sequence.

    An attack may read the tokens of a batch and not know to which sequence each belongs. A token
    counts as read if all its occurrences in the batch were read, else in part. The value is from 0
    to 1. Higher values mean that more has leaked.

    Args:
        truth: Tokens (B, L) of the originals, the whole batch.
        guess: Tokens (B, L) of the reconstructions.
        silent: Tokens that stand for no text.

    Returns:
        The values (B,). A sequence without text has 0.

    Raises:
        DataError: The shapes differ or are not (B, L), or the originals are not whole numbers.

    Example:
        >>> import torch
        >>> import leakgauge as lg
        >>> truth, guess = torch.tensor([[7, 8], [9, 9]]), torch.tensor([[9, 8], [7, 5]])
        >>> lg.metrics.batch_bag(truth, guess)
        tensor([1.0000, 0.5000], dtype=torch.float64)
    """
    truth, guess = as_tokens(truth, guess, "batch_bag")
    wanted = _bag(truth.flatten().tolist(), silent)
    read = wanted & _bag(guess.flatten().tolist(), silent)
    fraction = {token: read[token] / count for token, count in wanted.items()}
    sums = [sum(fraction.get(token, 0.0) for token in row) for row in truth.tolist()]
    return torch.tensor(sums, dtype=torch.float64) / _wanted(truth, silent).sum(1).clamp_min(1)


def exact(truth: Tensor, guess: Tensor, *, silent: Collection[int] = ()) -> Tensor:
    """Compute whether each sequence was read whole: 1 if all its tokens were, in order, else 0.

    Higher values mean that more has leaked. The mean over examples is the exact-match rate.

    Args:
        truth: Tokens (B, L) of the originals.
        guess: Tokens (B, L) of the reconstructions.
        silent: Tokens that stand for no text. They are left out of both sequences.

    Returns:
        The values (B,). A sequence without text has 0.

    Raises:
        DataError: The shapes differ or are not (B, L), or the originals are not whole numbers.

    Example:
        >>> import torch
        >>> import leakgauge as lg
        >>> truth, guess = torch.tensor([[7, 8, 0], [7, 8, 0]]), torch.tensor([[7, 8, 0], [8, 7, 0]])
        >>> lg.metrics.exact(truth, guess, silent=(0,))
        tensor([1., 0.], dtype=torch.float64)
    """
    truth, guess = as_tokens(truth, guess, "exact")
    spoken = [
        ([t for t in row if t not in silent], [t for t in other if t not in silent])
        for row, other in zip(truth.tolist(), guess.tolist(), strict=True)
    ]
    return torch.tensor([bool(row) and row == other for row, other in spoken]).double()


def rouge(truth: Tensor, guess: Tensor, *, kind: Rouge, text: Callable[[Tensor], str]) -> Tensor:
    """Compute a ROUGE score, the overlap of words, for each sequence.

    It is the F-measure of the package `rouge-score`, without stemming. That package makes letters
    small and drops all other characters than a to z and digits. The value is from 0 to 1. Higher
    values mean that more has leaked.

    Args:
        truth: Tokens (B, L) of the originals.
        guess: Tokens (B, L) of the reconstructions.
        kind: "rouge1" for words, "rouge2" for pairs of neighboring words, or "rougeL" for the
            longest common subsequence of words.
        text: Function that returns the text of one sequence (L,), such as `TextDomain.text`.

    Returns:
        The values (B,). A text without words has 0.

    Raises:
        DataError: The shapes differ or are not (B, L), or `rouge-score` is not installed.

    References:
        Lin. ROUGE: A Package for Automatic Evaluation of Summaries. ACL Workshop on Text
        Summarization, 2004.

    Example:
        >>> import torch
        >>> import leakgauge as lg
        >>> domain = lg.TextDomain(4, 3, pad=0, pieces=("", " red", " fish", " swim"))
        >>> truth, guess = torch.tensor([[1, 2, 3]]), torch.tensor([[1, 2, 0]])
        >>> lg.metrics.rouge(truth, guess, kind="rouge1", text=domain.text)  # doctest: +SKIP
        tensor([0.8000], dtype=torch.float64)
    """
    truth, guess = as_tokens(truth, guess, "rouge")
    scorer = _scorer(kind)
    pairs = [(text(row), text(other)) for row, other in zip(truth, guess, strict=True)]
    found = [scorer.score(row, other)[kind].fmeasure for row, other in pairs]
    return torch.tensor(found, dtype=torch.float64)


def no_rouge() -> str | None:
    """Return why ROUGE cannot be computed, or None if it can.

    Example:
        >>> import leakgauge as lg
        >>> lg.metrics.no_rouge()  # doctest: +SKIP
    """
    try:
        _scorer("rouge1")
    except DataError:
        return 'no ROUGE: it needs rouge-score, which `pip install "leakgauge[text]"` installs'
    return None


def assign_tokens(truth: Tensor, guess: Tensor, *, silent: Collection[int] = ()) -> Tensor:
    """Return the assignment of reconstructions to originals with the most tokens read.

    Among assignments that read equally many tokens, it chooses one with the most at their places.

    Args:
        truth: Tokens (B, L) of the originals.
        guess: Tokens (M, L) of the reconstructions, with M >= B.
        silent: Tokens that stand for no text.

    Returns:
        Indices (B,) of type int64. Entry i is the reconstruction for original i.

    Raises:
        DataError: The shapes do not match, or there are fewer reconstructions than originals.

    Example:
        >>> import torch
        >>> import leakgauge as lg
        >>> tokens = torch.tensor([[7, 8], [5, 6]])
        >>> lg.metrics.assign_tokens(tokens, tokens.flip(0))
        tensor([1, 0])
    """
    if truth.ndim != 2 or truth.shape[1:] != guess.shape[1:] or len(guess) < len(truth):
        raise DataError(
            "assignment",
            expected="sequences of one length, and at least as many reconstructions as originals",
            found=f"originals {tuple(truth.shape)} and reconstructions {tuple(guess.shape)}",
            remedy="give at least as many reconstructions as originals",
        )
    # The import is here because SciPy takes a third of a second to load.
    from scipy.optimize import linear_sum_assignment

    truth, guess = truth.detach().cpu(), guess.detach().cpu()
    bags = [_bag(row, silent) for row in guess.tolist()]
    wanted = _wanted(truth, silent)
    read = [[(_bag(row, silent) & bag).total() for bag in bags] for row in truth.tolist()]
    placed = torch.stack(
        [((guess == row) & held).sum(1) for row, held in zip(truth, wanted, strict=True)]
    )
    gain = torch.tensor(read) * (truth.shape[1] * len(truth) + 1) + placed
    _, chosen = linear_sum_assignment(gain.double().numpy(), maximize=True)
    return torch.from_numpy(chosen).long()


def as_tokens(truth: Tensor, guess: Tensor, metric: str) -> tuple[Tensor, Tensor]:
    """Return originals and reconstructions (B, L) on the CPU. Raise DataError unless they are pairs of tokens."""
    whole = not truth.is_floating_point() and not guess.is_floating_point()
    if truth.shape != guess.shape or truth.ndim != 2 or truth.numel() == 0 or not whole:
        raise DataError(
            f"metric {metric!r}",
            expected="whole numbers (B, L), one reconstruction for each original",
            found=f"{truth.dtype} {tuple(truth.shape)} and {guess.dtype} {tuple(guess.shape)}",
            remedy="use mse or psnr for other domains",
        )
    return truth.detach().cpu(), guess.detach().cpu()


def _wanted(truth: Tensor, silent: Collection[int]) -> Tensor:
    """Return which tokens (B, L) stand for text."""
    return ~torch.isin(truth, torch.tensor(sorted(silent), dtype=torch.long))


def _bag(tokens: list[int], silent: Collection[int]) -> Counter[int]:
    """Return how often each token stands in a sequence, without those for no text."""
    return Counter(token for token in tokens if token not in silent)


def _scorer(kind: Rouge) -> Any:
    """Return the scorer of a ROUGE score. Raise DataError if the package is not installed."""
    try:
        library = importlib.import_module("rouge_score.rouge_scorer")
    except ImportError as error:
        raise DataError(
            "metric 'rouge'",
            expected="the package rouge-score",
            found=str(error),
            remedy='run `pip install "leakgauge[text]"`',
        ) from error
    return library.RougeScorer([kind], use_stemmer=False)
