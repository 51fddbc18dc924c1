"""One bit for each entry. Bernstein, Wang, Azizzadenesheli, Anandkumar: signSGD, Compressed Optimisation for Non-Convex
Problems, ICML 2018; scaled as by Karimireddy, Rebjock, Stich, Jaggi: Error Feedback Fixes SignSGD, ICML 2019.

    ||g||_1 / d  sign(g)     of each tensor of d entries
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from leakgauge.core import Claim, Effect, Encoding, Seeds, Tensors, Update
from leakgauge.defenses.base import Undefended

SOFTNESS = 0.3
"""How many mean magnitudes wide the adversary's smooth sign changes over."""


@dataclass(frozen=True, kw_only=True)
class Sign(Undefended):
    """The sign of each entry times the mean magnitude of its tensor; 0 stays 0.

    signSGD itself sends no magnitude: the server's learning rate stands for it. The smooth sign is ours.
    """

    claim: ClassVar[Claim] = Claim(
        "the magnitude of each entry of the update",
        "whoever sees the update",
        "compares the sign of its own update, smoothed so that it can be descended on",
    )

    @property
    def effects(self) -> tuple[Effect, ...]:
        return (Encoding(bits=1),)

    def on_update(self, update: Update, *, seeds: Seeds) -> Update:
        return update.map(lambda t: mean_magnitude(t) * t.sign())

    def adapt(self, observed: Update) -> Callable[[Tensors], Tensors]:
        """||g||_1 / d  tanh(g / (SOFTNESS ||g||_1 / d)): the sign, as SOFTNESS goes to 0."""

        def smooth(t: Tensor) -> Tensor:
            size = mean_magnitude(t)
            width = (SOFTNESS * size).clamp_min(torch.finfo(t.dtype).tiny)
            return size * (t / width).tanh()

        return lambda simulated: {name: smooth(t) for name, t in simulated.items()}


def mean_magnitude(t: Tensor) -> Tensor:
    """||t||_1 / d, a scalar; 0 of an empty tensor."""
    return t.abs().sum() / max(t.numel(), 1)
