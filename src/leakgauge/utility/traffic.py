"""The size of an update on its way to the server, in bytes."""

from __future__ import annotations

import math

from leakgauge.core import Defense, Encoding, Update, effect

FLOAT = 32
"""Bits of a value, unless a defense states a shorter format."""


def sent_bytes(update: Update, defense: Defense | None = None) -> int:
    r"""Return the bytes of one update, as a plain encoder would send it.

    .. math::

        \left\lceil \frac{1}{8} \sum_t \min(n_t b, \; k_t (b + \lceil \log_2 n_t \rceil))
        \right\rceil

    Tensor :math:`t` has :math:`n_t` values, and :math:`k_t` of them are not zero. A value has :math:`b`
    bits. The encoder sends all values, or only the nonzero values with their positions, whichever is
    shorter. It uses no entropy coding and no headers.

    Args:
        update: The update.
        defense: The defense. Its effect `Encoding` states the bits of a value. The default is 32.

    Returns:
        The size in bytes.

    Example:
        >>> import torch
        >>> import leakgauge as lg
        >>> lg.utility.sent_bytes(lg.Update({"w": torch.ones(10)}))
        40
    """
    encoding = effect(defense, Encoding)
    bits = FLOAT if encoding is None else encoding.bits
    total = 0.0
    for tensor in update.tensors.values():
        count, kept = tensor.numel(), int((tensor != 0).sum())
        place = math.ceil(math.log2(count)) if count > 1 else 0
        total += min(count * bits, kept * (bits + place))
    return math.ceil(total / 8)
