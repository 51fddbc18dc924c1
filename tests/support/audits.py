"""A small data set, and an audit case with it."""

from __future__ import annotations

from typing import Any

import torch
from conftest import mlp

import leakgauge as lg
from leakgauge import attacks

DOMAIN = lg.ImageDomain(1, 8, 8)


def noise(count: int = 12) -> lg.Dataset:
    """Return a data set of random 8x8 images with four classes."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand((count, 1, 8, 8), generator=generator)
    return lg.Dataset("noise", inputs, torch.arange(count) % 4, DOMAIN, 4)


def case(**changes: Any) -> lg.Case:
    """Return a case of one attack on an MLP, with changed settings."""
    settings: dict[str, Any] = {
        "name": "small",
        "data": noise(),
        "model": mlp(),
        "attacks": [attacks.LinearLayer()],
    }
    return lg.Case(**(settings | changes))
