"""Fewer bits for each entry of the update."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from leakgauge.core import Claim, Effect, Encoding, Seeds, Update
from leakgauge.defenses.base import Undefended


@dataclass(frozen=True, kw_only=True)
class Quantization(Undefended):
    r"""Round each entry of the update to a shorter number format.

    It acts on the finished update, before it leaves the client. fp16 and bf16 are casts. A value
    beyond the largest fp16 number becomes that number. int8 has 255 levels, symmetric about 0, for
    each tensor :math:`g`:

    .. math::

        \tilde g = \Delta \, \mathrm{round}\left(\frac{g}{\Delta}\right), \qquad \Delta = \frac{\max_i |g_i|}{127}

    An adaptive adversary matches the rounded update. It counts the rounding as an error.

    Args:
        format: Number format. The paper tests all three. The default is ours.

    References:
        Zhu, Liu, Han. Deep Leakage from Gradients. NeurIPS 2019, section 5.1. arXiv:1906.08935.

    Example:
        >>> import leakgauge as lg
        >>> import torch
        >>> update = lg.Update({"weight": torch.tensor([127.0, 3.3])})
        >>> lg.defenses.Quantization(format="int8").on_update(update, seeds=lg.Seeds(0)).tensors["weight"]
        tensor([127.,   3.])
    """

    strength: ClassVar[str] = "format"
    claim: ClassVar[Claim] = Claim(
        "the last digits of each entry of the update",
        "anyone who sees the update",
        "matches the rounded update and counts the rounding as an error",
    )
    format: Literal["fp16", "bf16", "int8"] = "fp16"

    @property
    def effects(self) -> tuple[Effect, ...]:
        return (Encoding(bits={"fp16": 16, "bf16": 16, "int8": 8}[self.format]),)

    def on_update(self, update: Update, *, seeds: Seeds) -> Update:
        return update.map({"fp16": _half, "bf16": _bfloat, "int8": _int8}[self.format])


def _half(t: Tensor) -> Tensor:
    """Round a tensor to fp16."""
    # Larger values saturate, because a client must not send infinities.
    largest = torch.finfo(torch.float16).max
    return t.clamp(-largest, largest).to(torch.float16).to(t.dtype)


def _bfloat(t: Tensor) -> Tensor:
    """Round a tensor to bf16."""
    return t.to(torch.bfloat16).to(t.dtype)


def _int8(t: Tensor) -> Tensor:
    """Round a tensor to 255 levels, symmetric about 0."""
    if t.numel() == 0:
        return t
    step = t.abs().max() / 127
    return t if step == 0 else (t / step).round() * step
