"""Networks of Hugging Face `transformers` as models of tokens (B, L): classifiers and language models."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from leakgauge.core import ModelError


class TextClassifier(nn.Module):
    """Wrapper that gives tokens and their attention mask to a network, and returns its logits.

    Args:
        network: A classifier of `transformers`, or any module that takes `input_ids` and
            `attention_mask` and returns an object with `logits` (B, K).
        pad: Token of the padding, which the attention ignores. None if there is none.

    Example:
        >>> from types import SimpleNamespace
        >>> import torch
        >>> import leakgauge as lg
        >>> class Network(torch.nn.Module):
        ...     def forward(self, input_ids, attention_mask):
        ...         return SimpleNamespace(logits=attention_mask.float())
        >>> lg.models.TextClassifier(Network(), pad=0)(torch.tensor([[5, 7, 0]]))
        tensor([[1., 1., 0.]])
    """

    def __init__(self, network: nn.Module, pad: int | None = None) -> None:
        super().__init__()
        self.network, self.pad = network, pad

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (B, K) of tokens (B, L)."""
        logits: Tensor = self.network(
            input_ids=tokens, attention_mask=attention_mask(tokens, self.pad)
        ).logits
        return logits


class LanguageModel(nn.Module):
    """Wrapper that returns the loss of a language model on its own tokens. There are no labels.

    A causal model predicts each token from those before it. A masked model predicts the tokens at
    fixed places, where its input holds the mask. `token_mean` makes the loss of a batch from the
    outputs.

    Args:
        network: A language model of `transformers`, or any module that takes `input_ids` and
            `attention_mask` and returns an object with `logits` (B, L, V).
        pad: Token of the padding, which is neither read nor predicted. None if there is none.
        mask: Token in the place of those to predict. None for a causal model.
        masked: Places to predict, from 0. They are public. Empty for a causal model.

    Example:
        >>> from types import SimpleNamespace
        >>> import torch
        >>> import leakgauge as lg
        >>> class Network(torch.nn.Module):
        ...     def forward(self, input_ids, attention_mask):
        ...         return SimpleNamespace(logits=torch.zeros(*input_ids.shape, 4))
        >>> outputs = lg.models.LanguageModel(Network(), pad=0)(torch.tensor([[1, 2, 3, 0]]))
        >>> lg.models.token_mean(outputs, None).exp()
        tensor(4.)
    """

    def __init__(
        self,
        network: nn.Module,
        pad: int | None = None,
        *,
        mask: int | None = None,
        masked: Sequence[int] = (),
    ) -> None:
        super().__init__()
        if (mask is None) != (len(masked) == 0):
            raise ModelError(
                "language model",
                expected="a mask token and masked places, or neither",
                found=f"the mask token {mask} and {len(masked)} places",
                remedy="give both for a masked model, and neither for a causal one",
            )
        self.network, self.pad = network, pad
        self.mask, self.masked = mask, tuple(masked)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the sum of the losses and the number of predicted tokens (B, 2) of tokens (B, L)."""
        given = tokens
        if self.mask is not None:
            given = tokens.clone()
            given[:, list(self.masked)] = self.mask
            if self.pad is not None:
                given = given.masked_fill(tokens == self.pad, self.pad)
        attended = attention_mask(tokens, self.pad)
        logits = self.network(input_ids=given, attention_mask=attended).logits
        if self.mask is None:
            logits, wanted = logits[:, :-1], tokens[:, 1:]
        else:
            logits, wanted = logits[:, list(self.masked)], tokens[:, list(self.masked)]
        counted = attention_mask(wanted, self.pad)
        losses = cross_entropy(logits.transpose(1, 2), wanted, reduction="none") * counted
        return torch.stack([losses.sum(1), counted.sum(1).to(losses)], 1)


def token_mean(outputs: Tensor, targets: Tensor | None) -> Tensor:
    """Return the mean loss over all predicted tokens of a batch. Labels are not used.

    Args:
        outputs: Sums of losses and numbers of tokens (B, 2), from `LanguageModel`.
        targets: Ignored. A language model has no labels.

    Example:
        >>> import torch
        >>> import leakgauge as lg
        >>> lg.models.token_mean(torch.tensor([[4.0, 2.0], [2.0, 1.0]]), None)
        tensor(2.)
    """
    total, count = outputs.sum(0)
    mean: Tensor = total / count.clamp_min(1)
    return mean


def attention_mask(tokens: Tensor, pad: int | None) -> Tensor:
    """Return 1 for each token (B, L) and 0 for padding."""
    return torch.ones_like(tokens) if pad is None else (tokens != pad).long()
