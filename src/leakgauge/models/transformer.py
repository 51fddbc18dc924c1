"""A small transformer that classifies sequences of tokens. It needs no other package."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from leakgauge.core import Domain, ModelError, TextDomain
from leakgauge.models.parts import check_counts, seeded


class CausalAttention(nn.Module):
    """Multi-head self-attention. Padding is not attended to, nor are later tokens if it is causal."""

    def __init__(self, dim: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))
        self.project = nn.Linear(dim, dim)

    def forward(self, x: Tensor, held: Tensor) -> Tensor:
        """Return tokens (B, L, dim) that combine the tokens `held` (B, L) of their sequence."""
        q, k, v = (
            layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
        seen = held[:, None, None, :]
        if self.causal:
            seen = seen & torch.ones_like(scores[0, 0], dtype=torch.bool).tril()
        # A row of padding attends to all, so that it has finite numbers. Nothing reads them.
        seen = seen | ~held[:, None, :, None]
        weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
        mixed: Tensor = self.project((weights @ v).transpose(1, 2).flatten(2))
        return mixed


class Layer(nn.Module):
    """Attention, then two linear layers, each behind a normalization and beside a skip connection."""

    def __init__(self, dim: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.attention = CausalAttention(dim, heads, causal=causal)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor, held: Tensor) -> Tensor:
        """Return tokens (B, L, dim)."""
        x = x + self.attention(self.norm1(x), held)
        mixed: Tensor = x + self.mlp(self.norm2(x))
        return mixed


class Transformer(nn.Module):
    """A transformer on tokens: embeddings with learned positions, layers, the mean of all tokens, one linear layer.

    Call `transformer` to build it from a seed.

    Args:
        domain: Domain of the text.
        classes: Number of classes, at least 1.
        dim: Number of values of a token.
        depth: Number of layers.
        heads: Number of attention heads.
        causal: Whether each token attends only to itself and to those before it.

    References:
        Vaswani et al. Attention Is All You Need. NeurIPS 2017. arXiv:1706.03762.

    Example:
        >>> import torch
        >>> import leakgauge as lg
        >>> domain = lg.TextDomain(50, 6, pad=0)
        >>> model = lg.models.Transformer(domain, 2, dim=16, depth=1, heads=2, causal=False)
        >>> model(torch.ones(3, 6, dtype=torch.int64)).shape
        torch.Size([3, 2])
    """

    def __init__(
        self, domain: TextDomain, classes: int, *, dim: int, depth: int, heads: int, causal: bool
    ) -> None:
        super().__init__()
        self.pad = domain.pad
        self.embedding = nn.Embedding(domain.vocabulary, dim)
        self.position = nn.Embedding(domain.length, dim)
        self.layers = nn.ModuleList(Layer(dim, heads, causal=causal) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (B, classes) of tokens (B, L)."""
        held = torch.ones_like(tokens, dtype=torch.bool) if self.pad is None else tokens != self.pad
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.embedding(tokens) + self.position(places)
        for layer in self.layers:
            x = layer(x, held)
        weights = held.to(x)[:, :, None]
        mean = (self.norm(x) * weights).sum(1) / weights.sum(1).clamp_min(1)
        logits: Tensor = self.head(mean)
        return logits


def transformer(
    domain: Domain,
    classes: int,
    *,
    dim: int = 64,
    depth: int = 2,
    heads: int = 4,
    attention: Literal["both", "causal"] = "both",
    seed: int = 0,
) -> Transformer:
    """Build a small transformer on tokens with random weights.

    Args:
        domain: Domain of the text.
        classes: Number of classes, at least 1.
        dim: Number of values of a token.
        depth: Number of layers.
        heads: Number of attention heads. It must divide `dim`.
        attention: "both" directions, as in BERT, or "causal", as in GPT.
        seed: Seed of the initial weights. The global random state stays unchanged.

    Raises:
        ModelError: The domain holds no text, heads do not divide dim, or a count is not a whole
            number from 1 to 1,048,576.

    Example:
        >>> import leakgauge as lg
        >>> model = lg.models.transformer(lg.TextDomain(50, 6, pad=0), 2, attention="causal")
        >>> model.training
        False
    """
    text = require_text(domain, "transformer")
    check_counts("transformer", classes=classes, dim=dim, depth=depth, heads=heads)
    if dim % heads or attention not in ("both", "causal"):
        raise ModelError(
            "model 'transformer'",
            expected="heads that divide dim, and the attention 'both' or 'causal'",
            found=f"{heads} heads for dim {dim}, and the attention {attention!r}",
            remedy="correct the option dim, heads or attention",
        )
    causal = attention == "causal"
    with seeded(seed):
        return Transformer(text, classes, dim=dim, depth=depth, heads=heads, causal=causal).eval()


def require_text(domain: Domain, name: str) -> TextDomain:
    """Return the domain, or raise ModelError unless it holds text."""
    if isinstance(domain, TextDomain):
        return domain
    raise ModelError(
        f"model {name!r}",
        expected="a domain of text",
        found=f"a domain of kind {domain.kind!r}",
        remedy="use data of sentences, or another model",
    )
