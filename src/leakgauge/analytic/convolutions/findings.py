"""What a descent has read, in words, and whether it tells the input."""

from __future__ import annotations

from functools import partial

from torch import Tensor, fx

from leakgauge.analytic.convolutions.batch_norm import mixes
from leakgauge.analytic.convolutions.descent import Descent
from leakgauge.analytic.convolutions.problem import Problem
from leakgauge.analytic.convolutions.propagation import is_relu
from leakgauge.analytic.linear import inverse_of_affine
from leakgauge.core import Observation

CONDITIONED = 1e-3
"""Least singular value, relative to the largest one, of a map whose input is certified.

A value from a float32 gradient has a relative error of about 1e-6.
"""


def unread_note(problem: Problem) -> tuple[str, ...]:
    """Return a note on the places of the input that the first convolution never reads."""
    first = problem.network.convolutions[0]
    unread = int((first.geometry.reads == 0).sum())
    if not unread:
        return ()
    return (
        f"{first.name!r} reads none of {unread} of its {first.geometry.places} input places: "
        "the image shows nothing private there",
    )


def tells_the_input(observation: Observation, problem: Problem, descent: Descent) -> bool:
    """Return whether a value that was read is an injective affine map of the input.

    Only then one image alone has it. The layers in front of a later value may lose a part of the
    image, as a pool or a normalization does. Then other images may give the same update. A blur loses
    a part up to rounding errors, so the map must also be well conditioned.
    """
    network, enter = problem.network, observation.domain.from_unit
    if mixes(network):
        # BatchNorm behind the first layer removes the contrast of the batch.
        return False

    def through(node: fx.Node, unit: Tensor) -> Tensor:
        return network.evaluate([node], {network.entry: enter(unit)})[node].flatten(1)

    return any(
        inverse_of_affine(partial(through, node), observation.domain, least=CONDITIONED) is not None
        for node in descent.known.values
        if node in network.varying
        and not any(map(is_relu, network.between([node], [network.entry])))
    )


def describe(descent: Descent) -> tuple[str, ...]:
    """Return notes on the layers that were read, and on the end of the descent."""
    known = descent.known.values
    read = [step for step in descent.steps if step.unknowns and step.source in known]
    bits = sum(step.repaired for step in descent.steps)
    notes = []
    if read:
        notes.append(
            f"layers whose input was recovered below: {len(read)}, down to {', '.join(read[-1].layers)} "
            f"(largest misfit {max(step.misfit for step in read):.0e}, wrong bits repaired: {bits})"
        )
    if descent.stopped:
        notes.append(f"the descent ended: {descent.stopped}")
    return tuple(notes)
