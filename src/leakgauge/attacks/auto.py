"""The attack that tries all applicable attacks, closed forms first."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

from leakgauge.attacks.april import April
from leakgauge.attacks.balanced_dlg import BalancedDLG
from leakgauge.attacks.cocktail_party import CocktailParty
from leakgauge.attacks.corrected_surrogate import CorrectedSurrogate
from leakgauge.attacks.dropout_inversion import DropoutInversion
from leakgauge.attacks.entries import Entry, HasCurvature, HasReLU
from leakgauge.attacks.idlg import IDLG
from leakgauge.attacks.inverting_gradients import InvertingGradients
from leakgauge.attacks.linear_layer import LinearLayer
from leakgauge.attacks.one_gradient import OneGradient
from leakgauge.attacks.peeling import Peeling
from leakgauge.attacks.rgap import RGAP
from leakgauge.attacks.second_order import SecondOrder
from leakgauge.attacks.smoothed_matching import SmoothedMatching
from leakgauge.attacks.softmax_unmixing import SoftmaxUnmixing
from leakgauge.attacks.spear import Spear
from leakgauge.attacks.surrogate_model import SurrogateModel
from leakgauge.core import (
    Attack,
    AttackError,
    BaseAttack,
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
from leakgauge.core.verdicts import lower_if_unsteady
from leakgauge.inversion.search.claims import copy_for_attack, judge, require_sound

EXACT = 1e-5
"""Residual at which only the rounding error of a float32 update is left. Smaller residuals are not compared."""
FAILURES = (AttackError, ModelError, ProbeError)
"""Errors that end one attack on a user's model. The other attacks still run."""
SMALL = 100_000
"""Largest number of parameters for second order by default. Its matrices grow with the number of parameters."""

DEFAULT: tuple[Entry, ...] = (
    Entry(attack=LinearLayer()),
    Entry(attack=CocktailParty()),
    Entry(attack=Spear()),
    Entry(attack=RGAP()),
    Entry(attack=Peeling()),
    Entry(attack=April()),
    Entry(attack=April(equations="embedding")),
    Entry(attack=SoftmaxUnmixing(), most_parameters=SMALL),
    Entry(attack=DropoutInversion(attack=SecondOrder(), weight=0.0), most_parameters=SMALL),
    Entry(attack=SecondOrder(), most_parameters=SMALL),
    Entry(attack=SmoothedMatching(), guards=(HasReLU(),)),
    Entry(attack=IDLG(steps=100), guards=(HasCurvature(),)),
    Entry(attack=BalancedDLG(), guards=(HasCurvature(),)),
    Entry(attack=CorrectedSurrogate(), guards=(HasCurvature(),)),
    Entry(attack=SurrogateModel()),
    Entry(attack=InvertingGradients(steps=4000)),
)
"""The default entries: closed forms first, then descents."""


@dataclass(frozen=True)
class _Able:
    """An attack that can run, with its plan.

    Args:
        title: The attack's name in notes and seeds.
        attack: The attack.
        plan: The plan of its run.
        source: The object that decides whether results are checked: the attack, or its entry if a
            part is a user's own.
    """

    title: str
    attack: Attack
    plan: Plan
    source: Attack | Entry

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


@dataclass(frozen=True, kw_only=True)
class Auto(BaseAttack):
    """Run all applicable attacks, one after the other, until one result is certain. Return the best match.

    Use it if you do not know which attack fits. A result is certain in three cases:

    - The result is certified.
    - It matches the update, and the update determines every direction of the batch.
    - The batch has one example, and the result matches the update to rounding error.

    The best match has the smallest relative residual of the update. An adversary can measure this
    residual, too. The notes list the attacks that ran, those that failed, and why others did not
    run.

    Args:
        attacks: Entries, or attacks without conditions. The default has closed forms first, then
            descents. Add your own attack with `attacks=(Entry(attack=Mine()), *Auto().attacks)`.

    References:
        Ours. Each of the attacks names its own paper.

    Example:
        >>> import leakgauge as lg
        >>> observation = lg.examples.observation(batch_size=2)
        >>> lg.attacks.Auto()(observation, seeds=lg.Seeds(0)).notes[0]
        'chosen by residual: LinearLayer()'
    """

    attacks: tuple[Attack | Entry, ...] = DEFAULT
    # Each attack decides for itself whether it needs derivatives.
    discrete: ClassVar[bool] = True
    judges_parts: ClassVar[bool] = True

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"batch_size"})

    def prepare(self, observation: Observation) -> Plan | Inapplicable:
        able: list[_Able] = []
        refusals: list[str] = []
        for one in self.attacks:
            entry = one if isinstance(one, Entry) else Entry(attack=one)
            known = is_our_object(entry)
            try:
                with contained(entry.attack, entry, "check"):
                    attack, plan = entry.plan(
                        observation if known else copy_for_attack(observation)
                    )
            except FAILURES as error:
                reason = " ".join(str(error).split())
                refusals.append(f"{title_of(entry.attack)}: its check failed: {reason}")
                continue
            if isinstance(plan, Inapplicable):
                refusals.append(f"{title_of(attack)}: {plan.reason}")
            else:
                able.append(_Able(title_of(attack), attack, plan, attack if known else entry))
        if not self.attacks:
            return Inapplicable("it has no attacks: name one in `attacks`")
        if not able:
            return Inapplicable("; ".join(refusals))
        return Plan(
            evaluations=sum(one.plan.evaluations for one in able),
            expected=sum(one.plan.usual for one in able),
            search=partial(_search, observation, able, refusals),
        )


def _search(
    observation: Observation,
    able: list[_Able],
    refusals: list[str],
    seeds: Seeds,
    progress: Progress,
) -> Reconstruction:
    """Run the attacks until one result is certain."""
    notes, results = list(refusals), list[tuple[Attack, Reconstruction]]()
    planned, done = max(1, sum(one.plan.evaluations for one in able)), 0

    def best_with(one: _Able, best: Callable[[], Reconstruction]) -> Reconstruction:
        """Return the best result so far, including that of the attack that runs."""
        try:
            with contained(one.attack, one.source, "search"):
                latest = one.checked(observation, best())
        except FAILURES as error:
            if not results:
                raise
            return _best(results, [*notes, f"{one.title} failed: {error}"])
        return _best([*results, (one.attack, latest)], notes)

    for one in able:
        part = scale_progress(
            progress,
            done / planned,
            one.plan.evaluations / planned,
            evaluations=sum(result.cost.evaluations for _, result in results),
            objective=no_objective,
            best=partial(_best, list(results), list(notes)) if results else None,
        )
        done += one.plan.evaluations
        try:
            with contained(one.attack, one.source, "search"):
                report = _reporting_whole(part, partial(best_with, one))
                found = one.checked(observation, one.plan.search(seeds.child(one.title), report))
        except FAILURES as error:
            notes.append(f"{one.title} failed: {error}")
            continue
        results.append((one.attack, found))
        notes.append(f"{one.title}: {found.status}, {found.message}")
        if is_settled(found):
            break
    if not results:
        raise AttackError(f"every applicable attack failed: {'; '.join(notes)}")
    return _best(results, notes)


def _reporting_whole(
    progress: Progress, best_with: Callable[[Callable[[], Reconstruction]], Reconstruction]
) -> Progress:
    """Return a progress callback that reports the best reconstruction of all attacks, not of the current one."""

    def tell(moment: Moment) -> None:
        if isinstance(moment, Moment) and moment.best is not None:
            moment = replace(moment, best=partial(best_with, moment.best))
        progress(moment)

    return tell


def _best(results: list[tuple[Attack, Reconstruction]], notes: list[str]) -> Reconstruction:
    """Return the result with the smallest residual, at the cost of all attacks."""
    attack, best = min(results, key=lambda pair: _residual(pair[1]))
    return replace(
        best,
        notes=(f"chosen by residual: {configuration_of(attack)}", *notes, *best.notes),
        cost=Cost(sum(result.cost.evaluations for _, result in results)),
    )


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
