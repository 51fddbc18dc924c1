"""Statuses that are promises: what a residual, a steady model and a signal allow a reconstruction to claim."""

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
"""Largest relative residual ||g - g*|| / ||g*|| of the whole update that counts as converged.

An update coded in float16 leaves 2e-4 of the true batch's own update, one in bfloat16 1.6e-3. So nothing that is read
from a bfloat16 update is called converged: it tells no more than that.
"""
CERTIFIED_WITHIN = 1e-4
"""Largest relative residual of the whole update that counts as certified: rounding of a float32 update.

The true batch in another order, or in float64, leaves up to 1e-7 in networks of few layers, and 2e-5 in one of 20
convolutions. An update coded in float16 leaves 2e-4, so that it certifies nothing.
"""


def no_signal(observation: Observation) -> Reconstruction:
    """Return a reconstruction without a guess, for an update whose entries are all zero."""
    message = (
        "every entry of the update is 0: nothing was observed, so nothing can be said about leakage"
    )
    return nothing_found(observation, Status.NO_SIGNAL, message)


def nothing_found(
    observation: Observation, status: Status, message: str, *, cost: Cost | None = None
) -> Reconstruction:
    """Return a reconstruction without a guess: every example is the valid one nearest to the middle."""
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
    )


def steady(observation: Observation, found: Reconstruction) -> Reconstruction:
    """Return the reconstruction with a note if the model changes as it runs. It then is not converged nor certified.

    What the adversary simulates is then not what the client computed. No residual proves anything.
    """
    if observation.unsteady is None:
        return found
    notes = [note for note in found.notes if note != observation.unsteady]
    noted = replace(found, notes=(*notes, observation.unsteady))
    if found.status not in (Status.CERTIFIED, Status.CONVERGED):
        return noted
    return lowered(noted, Status.UNCONVERGED, f"not {found.status}: {observation.unsteady}")


def unproven_under(defense: Defense | None) -> str | None:
    """Return why an exact match proves nothing of the private examples under a defense, or None if it does.

    A defense of ours states what it does to the examples. One of the user's own may change them at any seam.
    """
    if effects_of(defense, ChangedExamples):
        return (
            "proven is what was trained on, and the defense had changed the private examples before"
        )
    if defense is not None and not is_ours(defense):
        return (
            f"{type(defense).__name__} is, or holds, a defense that is not LeakGauge's own, and may have changed "
            "the private examples before"
        )
    return None


def of_the_trained(defense: Defense | None, found: Reconstruction) -> Reconstruction:
    """Return the reconstruction, at most converged if the defense may have changed the private examples."""
    reason = unproven_under(defense) if found.status is Status.CERTIFIED else None
    if reason is None:
        return found
    return lowered(found, Status.CONVERGED, f"not certified: {reason}")


def bounded(found: Reconstruction) -> Reconstruction:
    """Return the reconstruction with the best status that the residual of the whole update allows."""
    if found.status not in (Status.CERTIFIED, Status.CONVERGED):
        return found
    if found.residual is None:
        reason = "not proven: the whole update was not simulated"
        return lowered(found, Status.UNCONVERGED, reason)
    allowed = CERTIFIED_WITHIN if found.status is Status.CERTIFIED else CONVERGED_WITHIN
    if found.residual <= allowed:
        return found
    matched = found.residual <= CONVERGED_WITHIN
    reason = f"the whole update is matched to {found.residual:.2g} of its norm only"
    status = Status.CONVERGED if matched else Status.UNCONVERGED
    return lowered(found, status, f"not {found.status}: {reason}")


def lowered(found: Reconstruction, status: Status, reason: str) -> Reconstruction:
    """Return the reconstruction with a lower status, and the reason at the end of its message."""
    message = f"{found.message}; {reason}" if found.message else reason
    return replace(found, status=status, message=message)
