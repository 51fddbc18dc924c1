"""A small vision transformer with a learned positional embedding (Dosovitskiy et al. 2021)."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from leakgauge.core import Domain, ImageDomain, ModelError
from leakgauge.models.parts import counts, dropping, images, seeded

Style = Literal["plain", "pre_norm"]
Readout = Literal["mean", "class_token"]


class Attention(nn.Module):
    """Multi-head self-attention (B, N, dim): one linear layer each for queries, keys and values, or one for all."""

    def __init__(self, dim: int, heads: int, *, fused: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.ModuleList(
            [nn.Linear(dim, 3 * dim)] if fused else [nn.Linear(dim, dim) for _ in range(3)]
        )
        self.project = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, N, dim) that have looked at each other."""
        joined = torch.cat([layer(x) for layer in self.qkv], dim=-1)
        parts = joined.reshape(*x.shape[:2], 3, self.heads, -1)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
        mixed: Tensor = self.project((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        return mixed


class Block(nn.Module):
    """Attention and a network of two layers. Plain: each, then normalized; pre_norm: each of a norm, added."""

    def __init__(self, dim: int, heads: int, *, style: Style, fused: bool, dropout: float) -> None:
        super().__init__()
        self.style = style
        self.attention = Attention(dim, heads, fused=fused)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, N, dim)."""
        if self.style == "pre_norm":
            x = x + self.dropout(self.attention(self.norm1(x)))
            return x + self.dropout(self.mlp(self.norm2(x)))  # type: ignore[no-any-return]
        x = self.norm1(self.dropout(self.attention(x)))
        plain: Tensor = self.norm2(self.dropout(self.mlp(x)))
        return plain


class ViT(nn.Module):
    """Patches embedded by a convolution, learned positions added, blocks, one linear layer."""

    def __init__(
        self,
        domain: ImageDomain,
        classes: int,
        *,
        patch: int,
        dim: int,
        depth: int,
        heads: int,
        style: Style,
        readout: Readout,
        fused: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        tokens = (domain.height // patch) * (domain.width // patch)
        self.embed = nn.Conv2d(domain.channels, dim, patch, stride=patch)
        self.token = nn.Parameter(torch.randn(1, 1, dim)) if readout == "class_token" else None
        places = tokens + (self.token is not None)
        self.position = nn.Parameter(0.02 * torch.randn(1, places, dim))
        self.blocks = nn.Sequential(
            *(Block(dim, heads, style=style, fused=fused, dropout=dropout) for _ in range(depth))
        )
        self.head = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, C, H, W) in [0, 1]."""
        x = self.embed(x).flatten(2).transpose(1, 2)
        if self.token is not None:
            x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1)
        x = self.blocks(x + self.position)
        logits: Tensor = self.head(x.mean(1) if self.token is None else x[:, 0])
        return logits


def vit(
    domain: Domain,
    classes: int,
    *,
    patch: int = 4,
    dim: int = 128,
    depth: int = 2,
    heads: int = 4,
    style: Style = "pre_norm",
    readout: Readout = "mean",
    fused: bool = True,
    dropout: float = 0.0,
    seed: int = 0,
) -> nn.Module:
    """A vision transformer of `depth` blocks on patches of `patch` pixels a side, with learned positions.

    style "pre_norm": the usual one. "plain": no skips, normalized after attention and after the
    layers, which is design (A) of APRIL (Lu et al. 2022, figure 1). readout: from the mean of all
    tokens, or from a class token. fused: one linear layer for queries, keys and values. dropout: the
    probability on what each attention, and each network of two layers, gives. In eval mode. Raises
    ModelError for a domain other than images that patches tile, heads that do not divide dim, a
    dropout that is no probability below 1, and unknown options.
    """
    image = images(domain, "vit")
    counts("vit", classes=classes, patch=patch, dim=dim, depth=depth, heads=heads)
    dropping("vit", dropout)
    _check(image, patch, dim, heads, style, readout)
    with seeded(seed):
        return ViT(
            image,
            classes,
            patch=patch,
            dim=dim,
            depth=depth,
            heads=heads,
            style=style,
            readout=readout,
            fused=fused,
            dropout=dropout,
        ).eval()


def _check(
    image: ImageDomain, patch: int, dim: int, heads: int, style: Style, readout: Readout
) -> None:
    found = None
    if image.height % patch or image.width % patch:
        found = f"patches of {patch} on {image.height}x{image.width} pixels"
    elif dim % heads:
        found = f"dim {dim} and {heads} heads"
    elif style not in get_args(Style) or readout not in get_args(Readout):
        found = f"style {style!r} and readout {readout!r}"
    if found is not None:
        raise ModelError(
            "model 'vit'",
            expected="patches that tile the image, heads that divide dim, and options that exist",
            found=found,
            remedy="mend the option",
        )
