"""Sequences of a decoder, token by token: a prefix is kept while the next layers read it.

The input of a layer behind the first attention depends, in a decoder, on the tokens up to its
position. So a prefix is right if its last input lies in the space that the layer's gradient spans.

References:
    Petrov, Dimitrov, Baader, Müller, Vechev. DAGER: Exact Gradient Inversion for Large Language
    Models. NeurIPS 2024, section 4, algorithm 1. arXiv:2405.15586.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from leakgauge.analytic.text.first_tokens import FirstTokens
from leakgauge.analytic.text.readers import capture, lengthened
from leakgauge.analytic.text.spans import CLEAR, InputSpace, widest_gap
from leakgauge.core import TextDomain
from leakgauge.core.pulse import Beat, quiet

CHUNK = 1 << 13
"""Most tokens of prefixes that run through the model at once."""
FINE, COARSE = 1e-4, 0.2
"""A distance below the first is always inside, and one above the second always outside, if the update is exact."""
LIKE = 10.0
"""Distance, in units of the largest one inside before, up to which a prefix may lie inside."""
MOST = 1 << 15
"""Most prefixes that are tried at one position."""


@dataclass(frozen=True, eq=False)
class Prefixes:
    """The prefixes that the layers read.

    Args:
        ends: Sequences that have no continuation, each (L',).
        inner: Prefixes that have one, each (L',). A sequence may also end here.
        clear: Whether every decision had a gap.
        most: Largest number of prefixes that were tried at one position.
    """

    ends: list[Tensor]
    inner: list[Tensor]
    clear: bool
    most: int


def read_prefixes(
    model: nn.Module,
    first: FirstTokens,
    spaces: Sequence[InputSpace],
    *,
    domain: TextDomain,
    width: int,
    shorter: bool,
    beat: Beat = quiet,
) -> Prefixes:
    """Return the sequences whose prefixes lie in the spaces.

    Args:
        model: A decoder.
        first: Tokens and positions of the batch.
        spaces: Spaces of layers that see a prefix, all of them telling.
        domain: The domain of the text.
        width: Most prefixes that are kept at one position, the best ones.
        shorter: Whether the model takes shorter sequences.
        beat: Called after each chunk.
    """
    ends: list[Tensor] = []
    inner: list[Tensor] = []
    alive, clear, most = torch.zeros(1, 0, dtype=torch.long), True, 0
    inside = first.inside
    for place in range(domain.length):
        options = first.at(place)
        if not len(options):
            break
        tried = torch.cat(
            [alive.repeat_interleave(len(options), 0), options.repeat(len(alive))[:, None]], 1
        )[:MOST]
        most = max(most, len(tried))
        whole = lengthened(domain, tried, shorter=shorter)
        distances = _last_distances(model, whole, place, spaces, beat)
        kept, sure = _accepted(distances, inside, first.outside)
        clear &= sure
        if int(kept.sum()) > width:
            best = distances.topk(width, largest=False).indices
            kept, clear = torch.zeros_like(kept).index_fill(0, best, True), False
        parents = torch.arange(len(alive)).repeat_interleave(len(options))[: len(tried)][kept]
        if place:
            goes_on = torch.zeros(len(alive), dtype=torch.bool).index_fill(0, parents, True)
            ends += list(alive[~goes_on])
            inner += list(alive[goes_on])
        alive = tried[kept]
        if not len(alive):
            break
        # From here on, the later layers themselves tell how near a right prefix is.
        inside = max(inside if place else 0.0, float(distances[kept].max()))
    return Prefixes(ends + list(alive), inner, clear, most)


def _accepted(distances: Tensor, inside: float, outside: float) -> tuple[Tensor, bool]:
    """Return which prefixes lie inside, and whether there is a clear gap.

    All may lie inside, or none. At least one does if it is about as near as those before.

    Args:
        distances: Distances (N,) of the prefixes.
        inside: Largest distance that was inside before.
        outside: Smallest distance of an arbitrary guess.
    """
    high = min(COARSE, outside / 3)
    some = float(distances.min()) <= max(FINE, LIKE * inside)
    threshold, ratio = widest_gap(distances, min(FINE, high / CLEAR), high, some=some)
    return distances <= threshold, ratio >= CLEAR


def _last_distances(
    model: nn.Module, prefixes: Tensor, last: int, spaces: Sequence[InputSpace], beat: Beat
) -> Tensor:
    """Return the largest distance over spaces of the input at the place `last` of each prefix (N, L')."""
    names = [space.readers[0].name for space in spaces]
    found = []
    for part in torch.split(prefixes, max(1, CHUNK // prefixes.shape[1])):
        inputs = capture(model, part, names)
        each = [s.distance(inputs[s.readers[0].name][:, last]) for s in spaces]
        found.append(torch.stack(each).amax(0))
        beat()
    return torch.cat(found)
