"""One bit for each entry of the update."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from leakgauge.core import Claim, Effect, Encoding, Seeds, Tensors, Update
from leakgauge.defenses.base import Undefended

SOFTNESS = 0.3
"""Width of the adversary's smooth sign, as a multiple of the tensor's mean magnitude."""


@dataclass(frozen=True, kw_only=True)
class Sign(Undefended):
    r"""Send only the sign of each entry, scaled by the mean magnitude of its tensor.

    It acts on the finished update, before it leaves the client. An entry of 0 stays 0.

    .. math::

        \tilde g = \frac{\|g\|_1}{d} \, \mathrm{sign}(g)

    Here :math:`g` is one tensor of the update, with :math:`d` entries. signSGD itself sends no
    magnitude. There the server's learning rate stands for it.

    An adaptive adversary compares the signs of its simulated update. It uses a smooth sign, which
    has a useful derivative. The smooth sign is ours.

    References:
        Bernstein, Wang, Azizzadenesheli, Anandkumar. signSGD: Compressed Optimisation for
        Non-Convex Problems. ICML 2018. arXiv:1802.04434.

        The scale: Karimireddy, Rebjock, Stich, Jaggi. Error Feedback Fixes SignSGD and other
        Gradient Compression Schemes. ICML 2019. arXiv:1901.09847.

    Example:
        >>> import leakgauge as lg
        >>> import torch
        >>> update = lg.Update({"weight": torch.tensor([3.0, -1.0, 0.0, 4.0])})
        >>> lg.defenses.Sign().on_update(update, seeds=lg.Seeds(0)).tensors["weight"]
        tensor([ 2., -2.,  0.,  2.])
    """

    claim: ClassVar[Claim] = Claim(
        "the magnitude of each entry of the update",
        "anyone who sees the update",
        "compares a smooth sign of its simulated update, which has a useful derivative",
    )

    @property
    def effects(self) -> tuple[Effect, ...]:
        return (Encoding(bits=1),)

    def on_update(self, update: Update, *, seeds: Seeds) -> Update:
        return update.map(lambda t: mean_magnitude(t) * t.sign())

    def adapt(self, observed: Update) -> Callable[[Tensors], Tensors]:
        r"""Return the smooth sign, a function of a simulated update.

        For a tensor :math:`g` of :math:`d` entries and :math:`m = \|g\|_1 / d`, it is
        :math:`m \tanh(g / (k m))`. Here :math:`k` is `SOFTNESS`. As :math:`k` goes to 0, it becomes
        the sign.
        """

        def smooth(t: Tensor) -> Tensor:
            size = mean_magnitude(t)
            width = (SOFTNESS * size).clamp_min(torch.finfo(t.dtype).tiny)
            return size * (t / width).tanh()

        return lambda simulated: {name: smooth(t) for name, t in simulated.items()}


def mean_magnitude(t: Tensor) -> Tensor:
    """Return the mean magnitude of a tensor's entries, a scalar, or 0 if it is empty."""
    return t.abs().sum() / max(t.numel(), 1)
