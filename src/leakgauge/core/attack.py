"""The contract of attacks, and the checks that surround the search of each attack in the package."""

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
from leakgauge.core.lines import describe_error
from leakgauge.core.observation import Observation
from leakgauge.core.plan import Inapplicable, Plan
from leakgauge.core.progress import Best, Moment, Progress, StopAttack, scale_progress, silent
from leakgauge.core.ranges import check_argument, check_ranges
from leakgauge.core.reconstruction import Cost, Reconstruction, Status
from leakgauge.core.seeds import Seeds
from leakgauge.core.stated import defense_in
from leakgauge.core.verdicts import (
    lower_if_changed,
    lower_if_unsteady,
    lower_to_residual,
    report_no_signal,
    report_nothing_found,
)


@runtime_checkable
class Attack(Protocol):
    """The contract of attacks. An attack takes an observation and returns a plan.

    It never sees the private batch. A class of your own satisfies the contract with these two
    members. It needs no base class. `BaseAttack` adds checks of the knowledge, the status and the
    failures.

    Example:
        >>> import leakgauge as lg
        >>> isinstance(lg.attacks.LinearLayer(), lg.Attack)
        True
    """

    @property
    def requires(self) -> frozenset[str]:
        """Names of the knowledge (fields of `Knowledge`) that the attack needs."""
        ...

    def plan(self, observation: Observation) -> Plan | Inapplicable:
        """Return a plan that is ready to run on this observation, or the reason why there is none."""
        ...


class BaseAttack(ABC):
    """Base class of attacks: plan a search on an observation, run it, and check its result.

    Derive from it to write an attack. Implement `requires` and `prepare`. The class then makes sure
    of five things:

    - Missing knowledge is reported before any compute.
    - An update of zeros gives the status `NO_SIGNAL`.
    - The status is never better than the residual of the whole update allows.
    - Every exception that leaves the attack is a `LeakGaugeError`.
    - The seconds of a reconstruction are those of the whole search.

    Example:
        >>> import leakgauge as lg
        >>> import torch
        >>> class Middle(lg.BaseAttack):
        ...     requires = frozenset({"batch_size"})
        ...     def prepare(self, observation):
        ...         def search(seeds, progress):
        ...             size = observation.batch_size
        ...             return lg.Reconstruction(
        ...                 inputs=torch.full((size, *observation.domain.shape), 0.5),
        ...                 targets=None,
        ...                 found=torch.ones(size, dtype=torch.bool),
        ...                 status=lg.Status.UNCONVERGED,
        ...             )
        ...         return lg.Plan(evaluations=0, search=search)
        >>> Middle()(lg.examples.observation(), seeds=lg.Seeds(0)).inputs.shape
        torch.Size([1, 1, 8, 8])
    """

    discrete: ClassVar[bool] = False
    """Whether the attack needs no derivatives. It then also runs on search spaces without derivatives."""
    judges_parts: ClassVar[bool] = False
    """Whether the attack holds a user's attack and checks its result itself. For attacks of the package only."""

    @property
    @abstractmethod
    def requires(self) -> frozenset[str]:
        """Names of the knowledge (fields of `Knowledge`) that the attack needs."""

    @abstractmethod
    def prepare(self, observation: Observation) -> Plan | Inapplicable:
        """Return the search on this observation, or the reason why there is none.

        The search may use all values that this method computes, so nothing is computed twice. A
        search passes a `Moment` to its `progress` from time to time. In the cost of its
        reconstruction, it sets `evaluations` only. The seconds are added later.
        """

    def plan(self, observation: Observation) -> Plan | Inapplicable:
        """Return a plan that is ready to run on this observation, or the reason why there is none.

        Raises:
            SpecificationError: An option is of another kind than its annotation, or out of range.
            KnowledgeError: The threat model withholds knowledge that the attack requires.
            AttackError: `prepare` failed on the model or the loss.
        """
        check_ranges(self)
        check_argument(f"{type(self).__name__}, observation", Observation, observation)
        check_knowledge(self, observation.knowledge.granted())
        if not observation.has_signal:
            return Plan(evaluations=0, search=lambda seeds, progress: report_no_signal(observation))
        try:
            with named_failures(self, "check"), Seeds().alone("check"):
                lacking = self.undifferentiable(observation)
                found = self.prepare(observation) if lacking is None else Inapplicable(lacking)
        except ProbeError as error:
            return Inapplicable(" ".join(str(error).split()))
        return found if isinstance(found, Inapplicable) else self._with_promises(observation, found)

    def undifferentiable(self, observation: Observation) -> str | None:
        """Return why the attack cannot search the domain's space, in one line, or None if it can."""
        if self.discrete or space_of(observation.domain).differentiable:
            return None
        kind = observation.domain.kind
        return f"it needs derivatives with respect to the examples, and the values of a {kind} are discrete"

    def __call__(
        self, observation: Observation, *, seeds: Seeds, progress: Progress = silent
    ) -> Reconstruction:
        """Plan and run the attack.

        Args:
            observation: The adversary's view of one update.
            seeds: The source of all random draws of the search.
            progress: A callback that receives the moments of the search. It may raise StopAttack to
                end the search.

        Returns:
            The reconstruction. If the attack cannot run here, its status is `INAPPLICABLE` and its
            message gives the reason.

        Raises:
            SpecificationError: An option is of another kind than its annotation, or out of range.
            KnowledgeError: The threat model withholds knowledge that the attack requires.
            AttackError: The search failed on the model or the loss.
        """
        plan = self.plan(observation)
        if isinstance(plan, Inapplicable):
            return report_nothing_found(observation, Status.INAPPLICABLE, plan.reason)
        return plan.run(seeds, progress)

    def _with_promises(self, observation: Observation, plan: Plan) -> Plan:
        """Return the plan with a search that keeps the promises of this class."""

        def limit_status(found: Reconstruction) -> Reconstruction:
            """Return the reconstruction with a status that is not better than proven."""
            found = lower_if_unsteady(observation, lower_to_residual(found))
            return lower_if_changed(defense_in(observation), found)

        def search(seeds: Seeds, progress: Progress) -> Reconstruction:
            check_argument(f"{type(self).__name__}, seeds", Seeds, seeds)
            clock = time.perf_counter()

            def tell(moment: Moment) -> None:
                """Forward the moment. Its best reconstruction gets the cost so far."""
                if moment.best is not None:
                    moment = replace(
                        moment, best=partial(best_with_cost, moment.best, moment.evaluations)
                    )
                progress(moment)

            def best_with_cost(best: Best, evaluations: int) -> Reconstruction:
                """Return the best reconstruction so far, with the evaluations and seconds spent until now."""
                return replace(best(), cost=Cost(evaluations, time.perf_counter() - clock))

            # A user's model or search may draw from the global generators.
            with named_failures(self, "search"), seeds.alone("attack"):
                found = limit_status(
                    plan.search(seeds, scale_progress(tell, 0.0, 1.0, finish=limit_status))
                )
            seconds = time.perf_counter() - clock
            found = replace(found, cost=replace(found.cost, seconds=seconds))
            progress(Moment(1.0, found.cost.evaluations, best=found.apart))
            return found

        message = "no reconstruction yet"
        return Plan(
            evaluations=plan.evaluations,
            expected=plan.expected,
            search=search,
            nothing=lambda: report_nothing_found(observation, Status.UNCONVERGED, message),
        )


def check_knowledge(attack: Attack, granted: frozenset[str]) -> None:
    """Raise KnowledgeError unless `granted` holds every name that `attack` requires."""
    missing = sorted(attack.requires - granted)
    if missing:
        name = missing[0]
        grant = f"grant it with [threat] {name} = true"
        if name == "defense":
            grant = f"{grant} for a client that has a defense"
        raise KnowledgeError(
            f"attack {type(attack).__name__}",
            expected=f"knowledge of {', '.join(missing)}",
            found=f"a threat model that grants {', '.join(sorted(granted)) or 'nothing'}",
            remedy=f"{grant}, or choose an attack that does not need it",
        )


@contextmanager
def named_failures(attack: object, step: str) -> Iterator[None]:
    """Raise each exception of other code as an AttackError that names the attack and the step. Keep it as the cause."""
    try:
        yield
    except (LeakGaugeError, StopAttack):
        raise
    # A user's model and loss can raise any exception. The audit records each failure.
    except Exception as error:
        found = " ".join(describe_error(error).split())
        raise AttackError(f"{type(attack).__name__}: its {step} failed: {found}") from error
