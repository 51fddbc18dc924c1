"""Limits on a status: the residual, a changing model, a defense or an update of zeros can lower it."""

from __future__ import annotations

from dataclasses import replace

import torch

from leakgauge.core.defense import Defense
from leakgauge.core.domain import space_of
from leakgauge.core.effects import ChangedExamples
from leakgauge.core.observation import Observation
from leakgauge.core.origin import is_ours
from leakgauge.core.reconstruction import Cost, Reconstruction, Status
from leakgauge.core.stated import effects_of

CONVERGED_WITHIN = 1e-3
"""Largest relative residual `||g - g*|| / ||g*||` of the whole update that counts as converged.

For an update that was coded in float16, the true batch leaves a residual of 2e-4. In bfloat16 it
leaves 1.6e-3. So no reconstruction from a bfloat16 update counts as converged.
"""
CERTIFIED_WITHIN = 1e-4
"""Largest relative residual of the whole update that counts as certified.

A smaller residual is the rounding of a float32 update. The true batch in another order, or in
float64, leaves up to 1e-7 in networks of few layers. In a network of 20 convolutions it leaves
2e-5. An update coded in float16 leaves 2e-4, so it certifies nothing.
"""

NOT_ESTIMATED = (
    "no example was estimated: inputs holds the middle of the domain, which shows nothing private"
)
"""The note on a reconstruction without any found example."""


def report_no_signal(observation: Observation) -> Reconstruction:
    """Return a reconstruction without any found example, for an update whose entries are all zero."""
    message = "every entry of the update is 0: nothing was observed, so this run says nothing about leakage"
    return report_nothing_found(observation, Status.NO_SIGNAL, message)


def report_nothing_found(
    observation: Observation, status: Status, message: str, *, cost: Cost | None = None
) -> Reconstruction:
    """Return a reconstruction without any found example.

    Its inputs are the valid examples nearest to the middle, and its note says so.

    Args:
        observation: The observation that was attacked.
        status: The status of the reconstruction.
        message: Its message.
        cost: What the attack spent. None, the default, is a cost of zero.
    """
    batch = observation.knowledge.batch_size or 1
    space = space_of(observation.domain)
    middle = torch.full((batch, *space.shape), 0.5).to(observation.update.like)
    return Reconstruction(
        inputs=space.round(middle),
        targets=None,
        found=torch.zeros(batch, dtype=torch.bool),
        status=status,
        message=message,
        cost=cost or Cost(),
        notes=(NOT_ESTIMATED,),
    )


def lower_if_unsteady(observation: Observation, found: Reconstruction) -> Reconstruction:
    """Return the reconstruction, lowered to unconverged and with a note if the model is unsteady.

    A model is unsteady if it changes as it runs. The adversary then simulates a different update
    from the one that the client computed, so a residual proves nothing.
    """
    if observation.unsteady is None:
        return found
    notes = [note for note in found.notes if note != observation.unsteady]
    noted = replace(found, notes=(*notes, observation.unsteady))
    if found.status not in (Status.CERTIFIED, Status.CONVERGED):
        return noted
    return lower_status(noted, Status.UNCONVERGED, f"not {found.status}: {observation.unsteady}")


def explain_unproven(defense: Defense | None) -> str | None:
    """Return why an exact match does not prove the private examples, or None if it does.

    A defense of this package states how it changes the examples. A user's own defense may change
    them at any seam.

    Args:
        defense: The defense under which the update was made, or None.
    """
    if effects_of(defense, ChangedExamples):
        return "the match proves the examples that were trained on, and the defense had changed the private ones before"
    if defense is not None and not is_ours(defense):
        return (
            f"{type(defense).__name__} is, or holds, a defense that is not LeakGauge's own, and may have changed "
            "the private examples before"
        )
    return None


def lower_if_changed(defense: Defense | None, found: Reconstruction) -> Reconstruction:
    """Return the reconstruction, lowered from certified to converged if the defense may have changed the examples."""
    reason = explain_unproven(defense) if found.status is Status.CERTIFIED else None
    if reason is None:
        return found
    return lower_status(found, Status.CONVERGED, f"not certified: {reason}")


def lower_to_residual(found: Reconstruction) -> Reconstruction:
    """Return the reconstruction with the best status that the residual of the whole update allows."""
    if found.status not in (Status.CERTIFIED, Status.CONVERGED):
        return found
    if found.residual is None:
        reason = "not proven: the whole update was not simulated"
        return lower_status(found, Status.UNCONVERGED, reason)
    allowed = CERTIFIED_WITHIN if found.status is Status.CERTIFIED else CONVERGED_WITHIN
    if found.residual <= allowed:
        return found
    matched = found.residual <= CONVERGED_WITHIN
    reason = f"the whole update is matched only to {found.residual:.2g} of its norm"
    status = Status.CONVERGED if matched else Status.UNCONVERGED
    return lower_status(found, status, f"not {found.status}: {reason}")


def lower_status(found: Reconstruction, status: Status, reason: str) -> Reconstruction:
    """Return the reconstruction with another status, and the reason at the end of its message."""
    message = f"{found.message}; {reason}" if found.message else reason
    return replace(found, status=status, message=message)
