"""What every attack of ours does around its own search."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import ClassVar

import torch

from leakgauge.core.domain import space_of
from leakgauge.core.effects import ChangedExamples
from leakgauge.core.errors import AttackError, LeakGaugeError, ProbeError
from leakgauge.core.lines import said
from leakgauge.core.observation import Observation
from leakgauge.core.protocols import Progress, silent
from leakgauge.core.ranges import check_argument, check_ranges
from leakgauge.core.reconstruction import Cost, Reconstruction, Status
from leakgauge.core.seeds import Seeds
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


class BaseAttack(ABC):
    """Check an observation, search, and check the status of the result.

    A subclass implements `requires`, `unsuited`, `evaluations` and `reconstruct`. This class keeps four promises
    for all of them. An update of zeros gives the status NO_SIGNAL. A status is never better than the residual of
    the whole update allows. Every exception that leaves an attack is a LeakGaugeError. Missing knowledge is told
    before any compute.
    """

    discrete: ClassVar[bool] = False
    """Whether the attack does without derivatives, so that it runs where the search space has none."""

    @property
    @abstractmethod
    def requires(self) -> frozenset[str]:
        """Return the names of the knowledge (fields of `Knowledge`) that the attack needs."""

    @abstractmethod
    def unsuited(self, observation: Observation) -> str | None:
        """Return why the attack cannot run on this observation, in one line, or None if it can."""

    @abstractmethod
    def evaluations(self, observation: Observation) -> int:
        """Return the largest number of simulated updates that a run computes."""

    @abstractmethod
    def reconstruct(
        self, observation: Observation, *, seeds: Seeds, progress: Progress
    ) -> Reconstruction:
        """Return a reconstruction of the batch. `progress` is told the fraction done, in [0, 1]."""

    def inapplicable(self, observation: Observation) -> str | None:
        """Return why the attack cannot run on this observation, in one line, or None if it can.

        Raises:
            SpecificationError: an option is of another kind than its annotation, or out of range.
            AttackError: the check itself failed on the model or the loss.
        """
        check_ranges(self)
        try:
            with named_failures(self, "check"):
                return self.undifferentiable(observation) or self.unsuited(observation)
        except ProbeError as error:
            return str(error)

    def undifferentiable(self, observation: Observation) -> str | None:
        """Return why the attack cannot search the domain's space, in one line, or None if it can."""
        if self.discrete or space_of(observation.domain).differentiable:
            return None
        kind = observation.domain.kind
        return f"it follows derivatives to the examples, which the discrete values of a {kind} lack"

    def __call__(
        self, observation: Observation, *, seeds: Seeds, progress: Progress = silent
    ) -> Reconstruction:
        """Return a reconstruction of the batch. `progress` is told the fraction done, in [0, 1].

        Raises:
            SpecificationError: an option is of another kind than its annotation, or out of range.
            KnowledgeError: the threat model withholds what the attack requires.
            AttackError: the search failed on the model or the loss.
        """
        check_ranges(self)
        check_argument(f"{type(self).__name__}, observation", Observation, observation)
        check_argument(f"{type(self).__name__}, seeds", Seeds, seeds)
        observation.require(self)
        if not observation.has_signal:
            return no_signal(observation)
        with named_failures(self, "search"):
            found = self.reconstruct(observation, seeds=seeds, progress=progress)
        found = steady(observation, bounded(found))
        return of_the_trained(found) if effects_of(observation, ChangedExamples) else found


@contextmanager
def named_failures(attack: object, step: str) -> Iterator[None]:
    """Raise every foreign exception as an AttackError that names the attack. The cause stays attached."""
    try:
        yield
    except LeakGaugeError:
        raise
    # A user's model and loss can fail in any way that Python knows. The audit records each failure.
    except Exception as error:
        found = " ".join(said(error).split())
        raise AttackError(f"{type(attack).__name__}: its {step} failed: {found}") from error


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
    like = next(iter(observation.update.tensors.values()))
    batch = observation.knowledge.batch_size or 1
    space = space_of(observation.domain)
    middle = torch.full((batch, *space.shape), 0.5).to(like)
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
    message = f"{found.message}; not {found.status}: {observation.unsteady}"
    return replace(noted, status=Status.UNCONVERGED, message=message.removeprefix("; "))


def of_the_trained(found: Reconstruction) -> Reconstruction:
    """Return the reconstruction, at most converged: what is proven is what a defense had made of the batch."""
    if found.status is not Status.CERTIFIED:
        return found
    return replace(
        found,
        status=Status.CONVERGED,
        message=f"{found.message}; not certified: proven is what was trained on, and the defense had changed the "
        "private examples before",
    )


def bounded(found: Reconstruction) -> Reconstruction:
    """Return the reconstruction with the best status that the residual of the whole update allows."""
    if found.status not in (Status.CERTIFIED, Status.CONVERGED):
        return found
    if found.residual is None:
        reason = "the whole update was not simulated"
        return replace(
            found, status=Status.UNCONVERGED, message=f"{found.message}; not proven: {reason}"
        )
    allowed = CERTIFIED_WITHIN if found.status is Status.CERTIFIED else CONVERGED_WITHIN
    if found.residual <= allowed:
        return found
    matched = found.residual <= CONVERGED_WITHIN
    return replace(
        found,
        status=Status.CONVERGED if matched else Status.UNCONVERGED,
        message=f"{found.message}; not {found.status}: the whole update is matched "
        f"to {found.residual:.2g} of its norm only",
    )
