"""Equal examples of a data set: within a batch, and between a batch and other examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice

import torch
from torch import Tensor


def select_differing(
    inputs: Tensor, private: Sequence[int], candidates: Iterable[int], count: int
) -> list[int]:
    """Return up to `count` candidates whose input differs from every private input, in order.

    Args:
        inputs: Inputs `(N, *shape)` of the data set.
        private: Indices of the private inputs.
        candidates: Indices of other inputs.
        count: Largest number of candidates to return.
    """
    taken = {bits(inputs[i]) for i in private}
    return list(islice((i for i in candidates if bits(inputs[i]) not in taken), count))


def equal_examples(inputs: Tensor) -> int:
    """Return how many of the inputs `(B, *shape)` equal another of these inputs."""
    return sum(many for many in Counter(map(bits, inputs)).values() if many > 1)


def bits(example: Tensor) -> bytes:
    """Return the bytes of one input `(*shape)`, to compare examples."""
    return example.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


__all__ = ["equal_examples", "select_differing"]
