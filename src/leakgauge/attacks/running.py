"""Attacks on one observation, one after the other, until one result is certain."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

from leakgauge.attacks.entries import Entry
from leakgauge.attacks.one_gradient import OneGradient
from leakgauge.core import (
    Attack,
    AttackError,
    Cost,
    Inapplicable,
    LeakGaugeError,
    ModelError,
    Moment,
    Observation,
    Plan,
    ProbeError,
    Progress,
    Reconstruction,
    Seeds,
    Status,
    StopAttack,
    scale_progress,
)
from leakgauge.core.attack import named_failures
from leakgauge.core.configuration import configuration_of
from leakgauge.core.lines import describe_error
from leakgauge.core.origin import is_our_object, is_ours
from leakgauge.core.progress import no_objective
from leakgauge.core.verdicts import lower_if_unsteady, report_nothing_found
from leakgauge.inversion.search.claims import copy_for_attack, judge, require_sound

EXACT = 1e-5
"""Residual at which only the rounding error of a float32 update is left. Smaller residuals are not compared."""
COMMON = 3
"""Fewest attacks whose common reason stands in one line."""
FAILURES = (AttackError, ModelError, ProbeError)
"""Errors that end one attack on a user's model. The other attacks still run."""


@dataclass(frozen=True)
class Able:
    """An attack that can run, with its plan.

    Args:
        title: The attack's name in notes and seeds.
        attack: The attack.
        plan: The plan of its run.
        source: The object that decides whether results are checked: the attack, or its entry if a
            part is a user's own.
        entry: Its entry.
    """

    title: str
    attack: Attack
    plan: Plan
    source: Attack | Entry
    entry: Entry

    def settles(self, found: Reconstruction) -> bool:
        """Return whether no other attack can improve the attack's reconstruction."""
        return is_settled(found) or (self.entry.decisive and found.status is Status.CONVERGED)

    def checked(self, observation: Observation, found: Reconstruction) -> Reconstruction:
        """Return the attack's reconstruction, with a status that its residual allows.

        Raises:
            AttackError: A user's own attack returned no valid reconstruction.
        """
        if is_ours(self.source):
            return found
        count = observation.batch_size
        found = require_sound(self.source, found, observation, count)
        return lower_if_unsteady(observation, judge(self.source, observation, found, count))


@contextmanager
def contained(attack: Attack, source: object, step: str) -> Iterator[None]:
    """Raise AttackError in place of any exception from a user's own attack, entry or guard.

    A UserError and SystemExit are replaced, too. StopAttack is not. Exceptions that do not come
    from the attack are not replaced either: Ctrl-C, and exceptions from a watcher.

    Args:
        attack: The attack that runs.
        source: The attack, or the entry that holds it. A UserError from our own parts is raised
            unchanged, so that the user can correct the cause.
        step: The step in which the attack is, for the message: "check" or "search".
    """
    try:
        with named_failures(attack, step):
            yield
    except (*FAILURES, StopAttack):
        raise
    except (LeakGaugeError, SystemExit) as error:
        if is_ours(source):
            raise
        raise AttackError(" ".join(describe_error(error).split())) from error


def plan_all(entries: Sequence[Entry], observation: Observation) -> tuple[list[Able], list[str]]:
    """Return the attacks that can run on an observation, and why the others cannot."""
    able, refusals = list[Able](), list[tuple[str, str]]()
    for entry in entries:
        known = is_our_object(entry)
        try:
            with contained(entry.attack, entry, "check"):
                attack, plan = entry.plan(observation if known else copy_for_attack(observation))
        except FAILURES as error:
            reason = " ".join(str(error).split())
            refusals.append((title_of(entry.attack), f"its check failed: {reason}"))
            continue
        if isinstance(plan, Inapplicable):
            refusals.append((title_of(attack), str(plan.reason)))
        else:
            source = attack if known else entry
            able.append(Able(title_of(attack), attack, plan, source, entry))
    return able, in_lines(refusals)


def in_lines(refusals: Sequence[tuple[str, str]]) -> list[str]:
    """Return one line for each attack that cannot run, or one for all attacks with a common reason.

    Args:
        refusals: The name of each attack, and the reason why it cannot run.
    """
    groups: dict[str, list[str]] = {}
    for title, reason in refusals:
        groups.setdefault(reason, []).append(title)
    found = []
    for reason, titles in groups.items():
        if len(titles) < COMMON:
            found += [f"{title}: {reason}" for title in titles]
        else:
            shown, rest = titles[: COMMON - 1], len(titles) - COMMON + 1
            found.append(f"{', '.join(shown)} and {rest} more: {reason}")
    return found


@dataclass(eq=False)
class Running:
    """The attacks that run on one observation.

    Args:
        observation: What the adversary observes, with the labels that an attack recovered for sure.
        able: The attacks that can run.
        notes: Why others cannot, and what each attack gave.
        results: The reconstructions so far.
        spent: Number of simulated updates so far.
    """

    observation: Observation
    able: Sequence[Able]
    notes: list[str]
    results: list[tuple[Attack, Reconstruction]] = field(default_factory=list)
    spent: int = 0

    def run(self, seeds: Seeds, progress: Progress) -> Reconstruction:
        """Run the attacks until one result is certain, and return the best one."""
        planned, done = max(1, sum(one.plan.usual for one in self.able)), 0
        queue, refused = list(self.able), list[str]()
        while queue:
            one = queue.pop(0)
            usual = min(one.plan.usual, planned - done)
            part = scale_progress(
                progress,
                done / planned,
                usual / planned,
                evaluations=self.spent,
                objective=no_objective,
                best=partial(self.best, list(self.results)) if self.results else None,
            )
            done += usual
            try:
                found = self._found(one, seeds, part)
            except FAILURES as error:
                self.notes.append(f"{one.title} failed: {error}")
                continue
            self.spent += found.cost.evaluations
            if found.status is Status.INAPPLICABLE:
                refused.append(f"{one.title}: {found.message}")
                self.notes.append(refused[-1])
                continue
            self.results.append((one.attack, found))
            self.notes.append(f"{one.title}: {found.status}, {found.message}")
            if one.settles(found):
                break
            if one.entry.decisive:
                queue = self._with_labels(found, queue)
        if self.results:
            return self.best(self.results)
        if refused:
            return report_nothing_found(
                self.observation, Status.INAPPLICABLE, "; ".join(self.notes), cost=Cost(self.spent)
            )
        raise AttackError(f"every applicable attack failed: {'; '.join(self.notes)}")

    def best(self, results: list[tuple[Attack, Reconstruction]]) -> Reconstruction:
        """Return the result with the smallest residual, at the cost of all attacks."""
        attack, best = min(results, key=lambda pair: _residual(pair[1]))
        notes = (f"chosen by residual: {configuration_of(attack)}", *self.notes, *best.notes)
        return replace(best, notes=notes, cost=Cost(self.spent))

    def _found(self, one: Able, seeds: Seeds, progress: Progress) -> Reconstruction:
        """Return the reconstruction of one attack. Its progress reports the best of all attacks."""

        def best_with(best: Callable[[], Reconstruction]) -> Reconstruction:
            try:
                with contained(one.attack, one.source, "search"):
                    latest = one.checked(self.observation, best())
            except FAILURES as error:
                if not self.results:
                    raise
                found = self.best(self.results)
                return replace(found, notes=(*found.notes, f"{one.title} failed: {error}"))
            found = self.best([*self.results, (one.attack, latest)])
            return replace(found, cost=Cost(self.spent + latest.cost.evaluations))

        def tell(moment: Moment) -> None:
            if isinstance(moment, Moment) and moment.best is not None:
                moment = replace(moment, best=partial(best_with, moment.best))
            progress(moment)

        with contained(one.attack, one.source, "search"):
            return one.checked(self.observation, one.plan.search(seeds.child(one.title), tell))

    def _with_labels(self, found: Reconstruction, queue: list[Able]) -> list[Able]:
        """Return the attacks that are left, planned again with the labels that were recovered."""
        knowledge = self.observation.knowledge
        known = found.targets is not None and bool(found.found.all())
        if not known or knowledge.labels is not None:
            return queue
        self.observation = replace(
            self.observation, knowledge=replace(knowledge, labels=found.targets)
        )
        able, refusals = plan_all([one.entry for one in queue], self.observation)
        self.notes += refusals
        return able


def title_of(attack: Attack) -> str:
    """Return the name of an attack in notes and seeds."""
    if isinstance(attack, OneGradient):
        return f"{title_of(attack.attack)} as if of one gradient"
    return type(attack).__name__


def is_settled(result: Reconstruction) -> bool:
    """Return whether no other attack can improve the result."""
    recovered = result.diagnosis is not None and result.diagnosis.verdict == "recovered"
    # With several examples, another batch may give the same update.
    matched = len(result.inputs) == 1 and _residual(result) <= EXACT
    return recovered or matched or result.status is Status.CERTIFIED


def _residual(result: Reconstruction) -> float:
    """Return the residual by which results are ranked: 0 if certified, infinite if not known."""
    if result.status is Status.CERTIFIED:
        return 0.0
    return math.inf if result.residual is None else result.residual
