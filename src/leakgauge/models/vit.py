"""A small vision transformer with a learned positional embedding."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from leakgauge.core import Domain, ImageDomain, ModelError
from leakgauge.models.parts import check_counts, check_dropout, require_images, seeded

Style = Literal["plain", "pre_norm"]
Readout = Literal["mean", "class_token"]


class Attention(nn.Module):
    """Multi-head self-attention.

    If `fused` is set, one linear layer computes queries, keys and values. Otherwise each has its own layer.
    """

    def __init__(self, dim: int, heads: int, *, fused: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.ModuleList(
            [nn.Linear(dim, 3 * dim)] if fused else [nn.Linear(dim, dim) for _ in range(3)]
        )
        self.project = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens (B, N, dim) that combine all N tokens of their image."""
        joined = torch.cat([layer(x) for layer in self.qkv], dim=-1)
        parts = joined.reshape(*x.shape[:2], 3, self.heads, -1)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
        mixed: Tensor = self.project((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        return mixed


class Block(nn.Module):
    """Attention, then a network of two linear layers.

    In the style "pre_norm", a normalization stands before each of these two parts, and a skip connection around it.
    In the style "plain", a normalization stands after each part, and there are no skip connections.
    """

    def __init__(self, dim: int, heads: int, *, style: Style, fused: bool, dropout: float) -> None:
        super().__init__()
        self.style = style
        self.attention = Attention(dim, heads, fused=fused)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens (B, N, dim)."""
        if self.style == "pre_norm":
            x = x + self.dropout(self.attention(self.norm1(x)))
            return x + self.dropout(self.mlp(self.norm2(x)))  # type: ignore[no-any-return]
        x = self.norm1(self.dropout(self.attention(x)))
        plain: Tensor = self.norm2(self.dropout(self.mlp(x)))
        return plain


class ViT(nn.Module):
    """A vision transformer: embedded patches with learned positions, attention blocks, one linear layer.

    Call `vit` to build it from a seed.

    Args:
        domain: Domain of the images: channels, height and width.
        classes: Number of classes, at least 1.
        patch: Side of a patch, in pixels.
        dim: Number of values of a token.
        depth: Number of blocks.
        heads: Number of attention heads.
        style: "pre_norm" or "plain", see `vit`.
        readout: "mean" of all tokens, or "class_token".
        fused: Whether one linear layer computes queries, keys and values.
        dropout: Probability of dropout, see `vit`.

    References:
        Dosovitskiy et al. An Image is Worth 16x16 Words: Transformers for Image Recognition at
        Scale. ICLR 2021. arXiv:2010.11929.

    Example:
        >>> import torch
        >>> import leakgauge as lg
        >>> from leakgauge.core import ImageDomain
        >>> model = lg.models.ViT(
        ...     ImageDomain(3, 32, 32), 10, patch=8, dim=16, depth=1, heads=2,
        ...     style="pre_norm", readout="mean", fused=True, dropout=0.0
        ... )
        >>> model(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 10])
    """

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
        """Return logits (B, classes) of images (B, C, H, W) in [0, 1]."""
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
    """Build a vision transformer with learned positions.

    The style "pre_norm" is the usual design. The style "plain" has no skip connections. It
    normalizes after attention and after the two linear layers. It is design (A) of APRIL.

    Args:
        domain: Domain of the images: channels, height and width.
        classes: Number of classes, at least 1.
        patch: Side of a patch, in pixels. It must divide both sides of the images.
        dim: Number of values of a token.
        depth: Number of blocks.
        heads: Number of attention heads. It must divide `dim`.
        style: "pre_norm" or "plain".
        readout: Input of the last layer, the "mean" of all tokens or a "class_token".
        fused: Whether one linear layer computes queries, keys and values.
        dropout: Probability of dropout after each attention and after each pair of linear layers,
            from 0 to below 1.
        seed: Seed of the initial weights. The global random state stays unchanged.

    Returns:
        The network in eval mode, with values in [0, 1] as inputs (B, C, H, W) and logits (B,
        classes) as outputs.

    Raises:
        ModelError: The domain holds no images that the patches tile, or `heads` does not divide
            `dim`. An option is unknown, or `dropout` is not a probability below 1. A count is not
            a whole number from 1 to 1,048,576.

    References:
        Dosovitskiy et al. An Image is Worth 16x16 Words: Transformers for Image Recognition at
        Scale. ICLR 2021. arXiv:2010.11929.

        Lu, Zhang, Zhao, He, Cheng. APRIL: Finding the Achilles' Heel on Privacy for Vision
        Transformers. CVPR 2022, figure 1. arXiv:2112.14087.

    Example:
        >>> import torch
        >>> import leakgauge as lg
        >>> from leakgauge.core import ImageDomain
        >>> model = lg.models.vit(ImageDomain(3, 32, 32), 10, dim=16)
        >>> model(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 10])
    """
    image = require_images(domain, "vit")
    check_counts("vit", classes=classes, patch=patch, dim=dim, depth=depth, heads=heads)
    check_dropout("vit", dropout)
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
    """Raise ModelError unless patches tile the image, heads divide `dim`, and style and readout exist."""
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
            expected="patches that tile the image, heads that divide dim, and a known style and readout",
            found=found,
            remedy="correct this option",
        )
