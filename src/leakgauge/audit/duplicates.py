"""Equal examples of a data set: inside a batch, and between the batch and what it is compared with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice

import torch
from torch import Tensor


def differing(
    inputs: Tensor, private: Sequence[int], candidates: Iterable[int], count: int
) -> list[int]:
    """Return the first `count` candidates whose input equals no private one; fewer if the data set has fewer.

    inputs (N, *shape); `private` and `candidates` are indices into it.
    """
    taken = {bits(inputs[i]) for i in private}
    return list(islice((i for i in candidates if bits(inputs[i]) not in taken), count))


def equal_examples(inputs: Tensor) -> int:
    """Return how many of the inputs (B, *shape) are equal to another one of them."""
    return sum(many for many in Counter(map(bits, inputs)).values() if many > 1)


def bits(example: Tensor) -> bytes:
    """Return the bytes of one input (*shape), to compare examples by."""
    return example.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


__all__ = ["differing", "equal_examples"]
