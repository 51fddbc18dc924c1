"""The contract of attacks, and what every attack of ours does around its own search."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import ClassVar, Protocol, runtime_checkable

from leakgauge.core.domain import space_of
from leakgauge.core.errors import AttackError, KnowledgeError, LeakGaugeError, ProbeError
from leakgauge.core.lines import said
from leakgauge.core.observation import Observation
from leakgauge.core.plan import Inapplicable, Plan
from leakgauge.core.progress import Best, Moment, Progress, StopAttack, silent, within
from leakgauge.core.ranges import check_argument, check_ranges
from leakgauge.core.reconstruction import Cost, Reconstruction, Status
from leakgauge.core.seeds import Seeds
from leakgauge.core.stated import defense_in
from leakgauge.core.verdicts import bounded, no_signal, nothing_found, of_the_trained, steady


@runtime_checkable
class Attack(Protocol):
    """An observation in, a plan out. Never sees the truth. A user's own class needs no base class."""

    @property
    def requires(self) -> frozenset[str]:
        """Return the names of the knowledge (fields of `Knowledge`) that the attack needs."""
        ...

    def plan(self, observation: Observation) -> Plan | Inapplicable:
        """Return the attack, ready to run on this observation, or the reason why it cannot."""
        ...


class BaseAttack(ABC):
    """Look at an observation once, then search, and check the status of the result.

    A subclass implements `requires` and `prepare`. This class keeps five promises for all of them. Missing knowledge
    is told before any compute. An update of zeros gives the status NO_SIGNAL. A status is never better than the
    residual of the whole update allows. Every exception that leaves an attack is a LeakGaugeError. The seconds of a
    reconstruction are those of the whole search.
    """

    discrete: ClassVar[bool] = False
    """Whether the attack does without derivatives, so that it runs where the search space has none."""
    judges_parts: ClassVar[bool] = False
    """Whether an attack of ours checks by itself what a user's own attack within it returns."""

    @property
    @abstractmethod
    def requires(self) -> frozenset[str]:
        """Return the names of the knowledge (fields of `Knowledge`) that the attack needs."""

    @abstractmethod
    def prepare(self, observation: Observation) -> Plan | Inapplicable:
        """Return the search on this observation, or the reason why there is none.

        What is found out here, the search uses: nothing is computed twice. A search tells its `progress` the
        moments of `core.progress`, and returns a reconstruction whose cost counts evaluations alone.
        """

    def plan(self, observation: Observation) -> Plan | Inapplicable:
        """Return the attack, ready to run on this observation, or the reason why it cannot.

        Raises:
            SpecificationError: an option is of another kind than its annotation, or out of range.
            KnowledgeError: the threat model withholds what the attack requires.
            AttackError: the check itself failed on the model or the loss.
        """
        check_ranges(self)
        check_argument(f"{type(self).__name__}, observation", Observation, observation)
        check_knowledge(self, observation.knowledge.granted())
        if not observation.has_signal:
            return Plan(evaluations=0, search=lambda seeds, progress: no_signal(observation))
        try:
            with named_failures(self, "check"), Seeds().alone("check"):
                lacking = self.undifferentiable(observation)
                found = self.prepare(observation) if lacking is None else Inapplicable(lacking)
        except ProbeError as error:
            return Inapplicable(" ".join(str(error).split()))
        return found if isinstance(found, Inapplicable) else self._kept(observation, found)

    def undifferentiable(self, observation: Observation) -> str | None:
        """Return why the attack cannot search the domain's space, in one line, or None if it can."""
        if self.discrete or space_of(observation.domain).differentiable:
            return None
        kind = observation.domain.kind
        return f"it follows derivatives to the examples, which the discrete values of a {kind} lack"

    def __call__(
        self, observation: Observation, *, seeds: Seeds, progress: Progress = silent
    ) -> Reconstruction:
        """Plan and run. An attack that cannot run here returns the status INAPPLICABLE, with the reason.

        Args:
            seeds: what the search draws from.
            progress: is told the moments of the search, and may raise StopAttack to end it.

        Raises:
            SpecificationError: an option is of another kind than its annotation, or out of range.
            KnowledgeError: the threat model withholds what the attack requires.
            AttackError: the search failed on the model or the loss.
        """
        plan = self.plan(observation)
        if isinstance(plan, Inapplicable):
            return nothing_found(observation, Status.INAPPLICABLE, plan.reason)
        return plan.run(seeds, progress)

    def _kept(self, observation: Observation, plan: Plan) -> Plan:
        """Return the plan with a search that keeps the promises of this class."""

        def promised(found: Reconstruction) -> Reconstruction:
            found = steady(observation, bounded(found))
            return of_the_trained(defense_in(observation), found)

        def search(seeds: Seeds, progress: Progress) -> Reconstruction:
            check_argument(f"{type(self).__name__}, seeds", Seeds, seeds)
            clock = time.perf_counter()

            def tell(moment: Moment) -> None:
                if moment.best is not None:
                    moment = replace(moment, best=partial(spent, moment.best, moment.evaluations))
                progress(moment)

            def spent(best: Best, evaluations: int) -> Reconstruction:
                return replace(best(), cost=Cost(evaluations, time.perf_counter() - clock))

            # A user's model or search may draw from global generators.
            with named_failures(self, "search"), seeds.alone("attack"):
                found = promised(plan.search(seeds, within(tell, 0.0, 1.0, finish=promised)))
            seconds = time.perf_counter() - clock
            found = replace(found, cost=replace(found.cost, seconds=seconds))
            progress(Moment(1.0, found.cost.evaluations, best=found.apart))
            return found

        message = "there was no reconstruction yet"
        return Plan(
            evaluations=plan.evaluations,
            expected=plan.expected,
            search=search,
            nothing=lambda: nothing_found(observation, Status.UNCONVERGED, message),
        )


def check_knowledge(attack: Attack, granted: frozenset[str]) -> None:
    """Raise KnowledgeError unless everything that `attack` requires is in `granted`."""
    missing = sorted(attack.requires - granted)
    if missing:
        name = missing[0]
        grant = f"grant it ([threat] {name} = true)"
        if name == "defense":
            grant = f"{grant} of a client that has one"
        raise KnowledgeError(
            f"attack {type(attack).__name__}",
            expected=f"knowledge of {', '.join(missing)}",
            found=f"a threat model that grants {', '.join(sorted(granted)) or 'nothing'}",
            remedy=f"{grant} or choose an attack that recovers it",
        )


@contextmanager
def named_failures(attack: object, step: str) -> Iterator[None]:
    """Raise every foreign exception as an AttackError that names the attack. The cause stays attached."""
    try:
        yield
    except (LeakGaugeError, StopAttack):
        raise
    # A user's model and loss can fail in any way that Python knows. The audit records each failure.
    except Exception as error:
        found = " ".join(said(error).split())
        raise AttackError(f"{type(attack).__name__}: its {step} failed: {found}") from error
