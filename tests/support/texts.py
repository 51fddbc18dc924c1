"""Small clients with private sentences, for tests of attacks on text."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import leakgauge as lg

DOMAIN = lg.TextDomain(60, 8, pad=0, special=(1, 2))
"""Text of up to eight tokens."""
TOKENS = torch.tensor([[7, 3, 9, 3, 12, 40, 0, 0], [11, 50, 3, 8, 0, 0, 0, 0]])
"""Two private sentences, of six and of four tokens."""


class Recurrent(nn.Module):
    """A network of a user's own: an embedding and an LSTM, whose axis of tokens comes first."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(60, 12)
        self.lstm = nn.LSTM(12, 10)
        self.head = nn.Linear(10, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (B, 2) of tokens (B, L)."""
        states = self.lstm(self.table(tokens.T))[0]
        held = (tokens.T != 0)[..., None].float()
        mean = (states * held).sum(0) / held.sum(0)
        logits: Tensor = self.head(mean)
        return logits


class TiedModel(nn.Module):
    """A causal language model on the mean of the tokens so far, whose last layer is its embedding."""

    def __init__(self, dim: int = 24) -> None:
        super().__init__()
        self.table = nn.Embedding(60, dim)
        self.mix = nn.Linear(dim, dim)
        self.last = nn.Linear(dim, 60)
        self.last.weight = self.table.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Return sums of losses and numbers of tokens (B, 2) of tokens (B, L)."""
        places = torch.arange(1, 9)[:, None]
        mean = self.table(tokens).cumsum(1) / places
        logits = self.last(self.mix(mean).tanh())
        wanted, held = tokens[:, 1:], tokens[:, 1:] != 0
        losses = nn.functional.cross_entropy(
            logits[:, :-1].transpose(1, 2), wanted, reduction="none"
        )
        return torch.stack([(losses * held).sum(1), held.sum(1).to(losses)], 1)


def seeded(build: type[nn.Module], **options: Any) -> nn.Module:
    """Return a module of a class with the weights of seed 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(**options).eval()


def observe(
    model: nn.Module,
    count: int = 2,
    *,
    language: bool = False,
    frozen: str | None = None,
    threat: lg.Server | None = None,
    **options: Any,
) -> lg.Observation:
    """Return the observation of a gradient of the first `count` sentences.

    Args:
        model: The client's model.
        count: Number of sentences.
        language: Whether the model is a language model, without labels.
        frozen: Name of a parameter that is not trained.
        threat: The threat model. The default is a server.
        options: Further options of the client.
    """
    if frozen is not None:
        model.get_parameter(frozen).requires_grad_(False)
    loss = lg.models.token_mean if language else nn.functional.cross_entropy
    client = lg.Client(
        model=model, loss=loss, domain=DOMAIN, classes=1 if language else 2, **options
    )
    targets = torch.zeros(count, dtype=torch.long) if language else torch.tensor([1, 0])[:count]
    batch = lg.Batch(TOKENS[:count], targets)
    return (threat or lg.Server()).observe(client, batch, seeds=lg.Seeds(0))
