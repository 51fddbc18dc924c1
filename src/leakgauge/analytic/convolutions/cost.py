"""The time of the exact inversion of a convolutional network, in simulated updates.

An audit measures the seconds of a simulated update and of its derivative. The search for the image
computes no update, and only the earliest layers of the network. So an evaluation takes a small part.

References:
    Ours. Constants are fitted to seconds of one thread of a CPU, for ResNet-18, ResNet-20 and a CNN
    of four layers.
"""

from __future__ import annotations

import math

from leakgauge.analytic.convolutions.network import Network

UPDATE, UPDATE_NODE = 8.0, 2.1e6
"""Work of a simulated update and its derivative: for each multiplication of the network, and for each operation."""
IMAGE, IMAGE_NODE, IMAGE_NUMBER = 0.3, 1.2e6, 4e3
"""Work of an evaluation of activations and its derivative, in the same units, and for each number of an image.

Only early layers are computed. The numbers of an image enter a history of 30 steps.
"""

ALGEBRA = 30
"""Simulated updates that take as long as the algebra: 25 to 29 for ResNet-18 and ResNet-20 at batches of 1 and 8."""
STARTING, STAGES, SQUARING = 140, 6.25, 600
"""Evaluations of the start of a round, of its stages for each step, and of the least squares at its end."""


def usual_updates(network: Network, count: int, *, steps: int) -> int:
    """Return the number of simulated updates that take as long as a run of one round.

    Args:
        network: The network.
        count: Batch size.
        steps: Number of steps of each stage of the search for the images.
    """
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
    image = IMAGE * products + IMAGE_NODE * nodes + IMAGE_NUMBER * numbers
    return float(image / (UPDATE * products + UPDATE_NODE * nodes))
