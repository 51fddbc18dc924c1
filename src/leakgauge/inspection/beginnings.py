"""Where `shift_consistency` begins, by its own counting before any search.

The attack tries four ways, in this order:

- the span of a layer that all values go through;
- the inside of the last block, behind a shortcut;
- any layer that its gradient alone tells;
- the masks of a pooled head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from torch import fx

from leakgauge.analytic.convolutions.counting import MANY
from leakgauge.analytic.convolutions.layer_readings import shift_in_front
from leakgauge.analytic.convolutions.network import Convolution
from leakgauge.analytic.convolutions.problem import Outline
from leakgauge.analytic.convolutions.several_inputs import readable
from leakgauge.analytic.convolutions.shift_scale import shift_behind
from leakgauge.analytic.convolutions.shortcut_beginning import ShortcutBlock, shortcut_block


@dataclass(frozen=True, eq=False)
class Planned:
    """Layers at which the attack may begin, each with the largest batch by its counting, at most MANY.

    Args:
        spans: Layers that all values go through.
        blocks: Last blocks with a shortcut, that of the smallest batches first.
        alone: Layers that their gradient alone tells, the earliest first.
    """

    spans: dict[fx.Node, int] = field(default_factory=dict)
    blocks: Sequence[tuple[ShortcutBlock, int]] = ()
    alone: dict[fx.Node, int] = field(default_factory=dict)


def planned(outline: Outline | None) -> Planned:
    """Return where the attack may begin in a network, for one example and for more."""
    if outline is None:
        return Planned()
    one, two = (replace(outline, count=n) for n in (1, 2))
    more = {layer for layer, refusal in two.candidates() if refusal is None}
    spans = {
        layer.node: MANY if layer in more else 1
        for layer, refusal in one.candidates()
        if refusal is None
    }
    several = set(readable(two))
    alone = {
        layer.node: MANY if layer in several else 1
        for layer in readable(one)
        if _tells_scales(outline, layer)
    }
    return Planned(spans, _blocks(outline), alone)


def _tells_scales(outline: Outline, layer: Convolution) -> bool:
    """Return whether the update holds the gradient of a shift beside a layer, which tells the scales of its inputs."""
    behind = shift_behind(outline.network, layer)
    front = shift_in_front(outline.network, layer.source)
    return (behind is not None and behind.name in outline.gradients) or front in outline.gradients


def _blocks(outline: Outline) -> list[tuple[ShortcutBlock, int]]:
    """Return the last blocks at which the attack begins for one example and for more, each with the largest batch."""
    one, two = (shortcut_block(replace(outline, count=n)) for n in (1, 2))
    found = list[tuple[ShortcutBlock, int]]()
    if isinstance(one, ShortcutBlock):
        same = isinstance(two, ShortcutBlock) and two.layer is one.layer
        found.append((one, MANY if same else 1))
        if isinstance(two, ShortcutBlock) and not same:
            found.append((two, MANY))
    return found
