"""The time of the exact inversion of a convolutional network, in simulated updates.

An audit measures the seconds of a simulated update and of its derivative. The search for the image
computes no update, and only the earliest layers of the network. So an evaluation takes a small part.
With BatchNorm in train mode, one search moves all images together, on later layers, and ends in float64.

References:
    Ours. Constants are fitted to seconds of one thread of a CPU, for ResNet-18, ResNet-20 and a CNN
    of four layers. In train mode, the CNN at batches of 1 to 8 and ResNet-18 at a batch of 2 took
    0.4 to 4.5 times the estimate.
"""

from __future__ import annotations

import math

from leakgauge.analytic.convolutions.batch_images import EVALUATIONS, ROUNDS
from leakgauge.analytic.convolutions.batch_norm import mixes
from leakgauge.analytic.convolutions.network import Network

UPDATE, UPDATE_NODE = 8.0, 2.1e6
"""Work of a simulated update and its derivative: for each multiplication of the network, and for each operation."""
IMAGE, IMAGE_NODE, IMAGE_NUMBER = 0.3, 1.2e6, 4e3
"""Work of an evaluation of activations and its derivative, in the same units, and for each number of an image.

Only early layers are computed. The numbers of an image enter a history of 30 steps.
"""

ALGEBRA = 30
"""Simulated updates that take as long as the algebra: 25 to 29 for ResNet-18 and ResNet-20 at batches of 1 and 8."""
ALGEBRA_TOGETHER = 130
"""The same with BatchNorm in train mode: 60 for ResNet-18 at a batch of 2, and 80 to 2400 for the CNN.

Each input is then a fixed point, and a doubted bit costs a whole one.
"""
IMAGE_TOGETHER = 2.0
"""Work of an evaluation for each multiplication of the network, with BatchNorm in train mode."""
STARTING, STAGES, SQUARING = 140, 6.25, 600
"""Evaluations of the start of a round, of its stages for each step, and of the least squares at its end."""


def usual_updates(network: Network, count: int, *, steps: int) -> int:
    """Return the number of simulated updates that take as long as an ordinary run.

    This is one round, or two rounds if BatchNorm in train mode mixes the examples.

    Args:
        network: The network.
        count: Batch size.
        steps: Number of steps of each stage of the search for the images.
    """
    if mixes(network):
        together = ROUNDS * (STARTING + STAGES * steps) + EVALUATIONS
        return ALGEBRA_TOGETHER + round(together * relative_work(network, count))
    evaluations = STARTING + STAGES * steps + SQUARING
    return ALGEBRA + round(evaluations * relative_work(network, count))


def relative_work(network: Network, count: int) -> float:
    """Return the seconds of one evaluation of activations, divided by those of one simulated update.

    Args:
        network: The network.
        count: Batch size.
    """
    products = count * sum(
        math.prod(each.node.meta["val"].shape[1:]) * math.prod(each.weight.shape[1:])
        for each in network.convolutions
    )
    nodes = sum(node.op == "call_function" for node in network.graph.nodes)
    numbers = count * math.prod(network.entry.meta["val"].shape[1:])
    each = IMAGE_TOGETHER if mixes(network) else IMAGE
    image = each * products + IMAGE_NODE * nodes + IMAGE_NUMBER * numbers
    return float(image / (UPDATE * products + UPDATE_NODE * nodes))
