"""The network as `shift_consistency` sees it before any gradient, and the layer that a pooled head tells."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from leakgauge.analytic.convolutions.batch_norm import mixes
from leakgauge.analytic.convolutions.mask_beginning import LastBlock, last_block
from leakgauge.analytic.convolutions.network import Network
from leakgauge.analytic.convolutions.operations import root_of
from leakgauge.analytic.convolutions.problem import Outline, features_node
from leakgauge.core import Domain, dtype_of, unit_shape
from leakgauge.federated.isolation.probing import spread
from leakgauge.inspection.layers import Layer

MASKED = 4
"""Largest batch that was read by the masks of a pooled head."""


def outline_of(
    network: Network, layers: Sequence[Layer], model: nn.Module, domain: Domain
) -> Outline | None:
    """Return the network as the attack sees it, or None if the attack does not apply."""
    last = next((x for x in layers if root_of(network.end) is x.node), None)
    if (
        last is None
        or last.kind != "linear"
        or not last.trained
        or not dtype_of(domain).is_floating_point
    ):
        return None
    features = features_node(network, f"{last.name}.weight")
    unit = spread(unit_shape(domain), 2, torch.zeros((), dtype=torch.float64))
    if features is None or not network.convolutions:
        return None
    if not network.computes(model, domain.from_unit(unit), together=mixes(network)):
        return None
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    ones = {name: torch.ones(1, dtype=torch.float64) for name in trained}
    return Outline(network=network, gradients=ones, features=features, count=1)


def masked_layer(outline: Outline | None) -> tuple[str, int]:
    """Return the name of the convolution that the masks behind a pooled head tell, and the largest batch.

    The name is empty if there is none. Equations must outnumber the unknowns of each input channel.
    """
    block = None if outline is None else last_block(outline)
    if not isinstance(block, LastBlock):
        return "", 0
    layer = block.layer
    most = len(layer.weight) * layer.geometry.taps // layer.geometry.places
    return layer.name.removesuffix(".weight"), min(MASKED, most)
