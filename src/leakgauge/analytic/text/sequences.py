"""Sequences from links between tokens: one token for each position, all linked with each other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from leakgauge.analytic.text.prefixes import CHUNK, COARSE, FINE
from leakgauge.analytic.text.readers import capture, padded
from leakgauge.analytic.text.spans import CLEAR, InputSpace, widest_gap
from leakgauge.core import TextDomain
from leakgauge.core.pulse import Beat, quiet

FAINT = 1e-3
"""Added to links before their logarithms. Smaller links are none."""
KEPT = 400
"""Most sequences that are kept at each position, those with the strongest links."""


def sequences_of(places: Tensor, strength: Tensor) -> list[Tensor]:
    """Return the indices (L',) of the tokens of likely sequences, of all lengths.

    A beam search keeps the sequences whose mean logarithm of links is largest.

    Args:
        places: Positions (N,) of the tokens. All positions below the largest occur.
        strength: Links (N, N), in [0, 1].
    """
    # A link in one direction is enough: a key that no query weighs has a small derivative.
    mutual = (torch.maximum(strength, strength.T) + FAINT).log()
    alive = (places == 0).nonzero()
    totals = torch.zeros(len(alive), dtype=mutual.dtype)
    found = list(alive)
    for place in range(1, 1 + int(places.max())):
        options = (places == place).nonzero().flatten()
        gains = mutual[alive][:, :, options].sum(1)
        scores = (totals[:, None] + gains).flatten()
        best = scores.topk(min(KEPT, len(scores))).indices
        rows, columns = best // len(options), best % len(options)
        alive = torch.cat([alive[rows], options[columns][:, None]], 1)
        totals = scores[best]
        found += list(alive)
    return found


def nearest(
    model: nn.Module,
    domain: TextDomain,
    held: Sequence[Tensor],
    spaces: Sequence[InputSpace],
    *,
    least: int,
    most: int,
    beat: Beat = quiet,
) -> list[Tensor]:
    """Return the sequences whose inputs the layers behind the attention read, the nearest first.

    Args:
        model: The model.
        domain: The domain of the text.
        held: Sequences (L',).
        spaces: Telling spaces of layers that see the whole sequence.
        least: Fewest sequences that are returned, even if others are clearly nearer.
        most: Most sequences that are returned.
        beat: Called after each chunk.
    """
    lengths = torch.tensor([len(each) for each in held])
    far = _distances(model, padded(domain, held), lengths, spaces, beat)
    threshold, ratio = widest_gap(far, FINE, COARSE)
    kept = int((far <= threshold).sum()) if ratio >= CLEAR else len(held)
    return [held[i] for i in far.argsort()[: min(max(kept, least), most)].tolist()]


def _distances(
    model: nn.Module,
    candidates: Tensor,
    lengths: Tensor,
    spaces: Sequence[InputSpace],
    beat: Beat,
) -> Tensor:
    """Return the largest distance (N,) from the spaces of the inputs of each padded sequence (N, L)."""
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
