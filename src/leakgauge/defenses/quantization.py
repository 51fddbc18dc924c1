"""Fewer bits for each entry of the update (Zhu et al. 2019, section 5.1: "half precision", int8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from leakgauge.core import Claim, Effect, Encoding, Seeds, Update
from leakgauge.defenses.base import Undefended


@dataclass(frozen=True, kw_only=True)
class Quantization(Undefended):
    """Round to fp16, bf16, or int8 (symmetric: 255 levels across the largest magnitude of each tensor)."""

    strength: ClassVar[str] = "format"
    claim: ClassVar[Claim] = Claim(
        "the last digits of each entry of the update",
        "whoever sees the update",
        "matches the rounded update, and counts the rounding among errors",
    )
    format: Literal["fp16", "bf16", "int8"] = "fp16"

    @property
    def effects(self) -> tuple[Effect, ...]:
        return (Encoding(bits={"fp16": 16, "bf16": 16, "int8": 8}[self.format]),)

    def on_update(self, update: Update, *, seeds: Seeds) -> Update:
        return update.map({"fp16": _half, "bf16": _bfloat, "int8": _int8}[self.format])


def _half(t: Tensor) -> Tensor:
    # A value beyond fp16's largest saturates, as in any codec that must not send infinities.
    largest = torch.finfo(torch.float16).max
    return t.clamp(-largest, largest).to(torch.float16).to(t.dtype)


def _bfloat(t: Tensor) -> Tensor:
    return t.to(torch.bfloat16).to(t.dtype)


def _int8(t: Tensor) -> Tensor:
    if t.numel() == 0:
        return t
    step = t.abs().max() / 127
    return t if step == 0 else (t / step).round() * step
