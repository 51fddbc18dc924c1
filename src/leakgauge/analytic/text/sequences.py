"""Sequences from links between tokens: one token for each position, all linked with each other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from leakgauge.analytic.text.prefixes import CHUNK
from leakgauge.analytic.text.readers import capture
from leakgauge.analytic.text.spans import CLEAR, InputSpace, widest_gap
from leakgauge.core.pulse import Beat, quiet

WEAK, STRONG = 1e-4, 0.3
"""Links below the first are none, and links above the second are some."""
MOST = 10_000
"""Most sequences that are kept."""


def sequences_of(places: Tensor, strength: Tensor) -> tuple[list[Tensor], bool]:
    """Return the indices (L',) of the tokens of each sequence, and whether links are clear.

    Args:
        places: Positions (N,) of the tokens. All positions below the largest occur.
        strength: Links (N, N), in [0, 1].
    """
    # A link in one direction is enough: a key that no query weighs has a small derivative.
    mutual = torch.maximum(strength, strength.T)
    threshold, ratio = widest_gap(mutual, WEAK, STRONG)
    linked = mutual > threshold
    alive = [[int(i)] for i in (places == 0).nonzero().flatten()]
    done: list[list[int]] = []
    for place in range(1, 1 + int(places.max())):
        options = (places == place).nonzero().flatten()
        grown: list[list[int]] = []
        for sequence in alive:
            fits = options[linked[sequence][:, options].all(0)].tolist()
            grown += [[*sequence, i] for i in fits]
            if not fits:
                done.append(sequence)
        alive = grown[:MOST]
    return [torch.tensor(one) for one in done + alive], ratio >= CLEAR


def distances_of(
    model: nn.Module,
    candidates: Tensor,
    lengths: Tensor,
    spaces: Sequence[InputSpace],
    *,
    beat: Beat = quiet,
) -> Tensor:
    """Return the largest distance (N,) of each sequence's inputs from the spaces of layers behind the attention.

    Args:
        model: The model.
        candidates: Sequences (N, L), padded.
        lengths: Their numbers of tokens (N,).
        spaces: Telling spaces of layers that see the whole sequence.
        beat: Called after each chunk.
    """
    names = [space.readers[0].name for space in spaces]
    real = torch.arange(candidates.shape[1]) < lengths[:, None]
    step = max(1, CHUNK // candidates.shape[1])
    found = []
    for part, held in zip(torch.split(candidates, step), torch.split(real, step), strict=True):
        inputs = capture(model, part, names)
        each = [s.distance(inputs[s.readers[0].name]).where(held, 0.0).amax(1) for s in spaces]
        found.append(torch.stack(each).amax(0))
        beat()
    return torch.cat(found)
