"""How many bytes an update takes on its way to the server."""

from __future__ import annotations

import math

from leakgauge.core import Defense, Encoding, Update, effect

FLOAT = 32
"""Bits of a value that no defense shortens."""


def sent_bytes(update: Update, defense: Defense | None = None) -> int:
    """Bytes of one update as a plain encoder would send it, whichever is shorter of each tensor:

    every value, or the values that are not zero, each with its place in ceil(log2 n) bits. A value has as many bits
    as the defense's shortest format (`Encoding`; 32 bits if it states none). No entropy coding, no headers.
    """
    encoding = effect(defense, Encoding)
    bits = FLOAT if encoding is None else encoding.bits
    total = 0.0
    for tensor in update.tensors.values():
        count, kept = tensor.numel(), int((tensor != 0).sum())
        place = math.ceil(math.log2(count)) if count > 1 else 0
        total += min(count * bits, kept * (bits + place))
    return math.ceil(total / 8)
