"""Every attack that the observation allows, closed forms first."""

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
    within,
)
from leakgauge.core.attack import named_failures
from leakgauge.core.configuration import configuration_of
from leakgauge.core.lines import describe_error
from leakgauge.core.origin import is_our_object, is_ours
from leakgauge.core.progress import no_objective
from leakgauge.core.verdicts import lower_if_unsteady
from leakgauge.inversion.search.claims import copy_for_attack, judge, require_sound

EXACT = 1e-5
"""Residual at which what is left of a float32 update is rounding: no residual chooses below it."""
FAILURES = (AttackError, ModelError, ProbeError)
"""What ends one attack on a user's model, and must not end the others."""
SMALL = 100_000
"""Most parameters of a network that second order is tried on by default: its matrices grow with them."""

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
"""Closed forms, and descents after them."""


@dataclass(frozen=True)
class _Able:
    """An attack that runs.

    Args:
        title: its name in notes and seeds.
        source: who vouches for what it returns: the attack, or the entry if that is a user's own class.
    """

    title: str
    attack: Attack
    plan: Plan
    source: Attack | Entry

    def checked(self, observation: Observation, found: Reconstruction) -> Reconstruction:
        """Return what the attack found, with a status that its residual allows.

        Raises:
            AttackError: it is a user's own, and no sound reconstruction.
        """
        if is_ours(self.source):
            return found
        count = observation.batch_size
        found = require_sound(self.source, found, observation, count)
        return lower_if_unsteady(observation, judge(self.source, observation, found, count))


@contextmanager
def contained(attack: Attack, source: object, step: str) -> Iterator[None]:
    """Raise AttackError for what a user's own attack, entry or guard raises: a UserError and an exit too.

    StopAttack passes, and so does what is no error of the attack: Ctrl-C, and what a watcher raised.

    Args:
        source: the attack, or the entry that holds it. An error of ours is the user's to mend.
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
    """Run attacks in their order until one settles the batch, and return the best match.

    Settled is a batch that is certified, that is matched with every direction told apart, or a single example that is
    matched to rounding. "Best" is the least relative residual of the update: the adversary's own measure. The notes
    say what ran, what failed, and why the others did not run.

    Args:
        attacks: entries, or attacks without conditions. By default closed forms first, descents after them. A user's
            own attack joins with `attacks=(Entry(attack=Mine()), *Auto().attacks)`.
    """

    attacks: tuple[Attack | Entry, ...] = DEFAULT
    # Each attack says by itself whether it needs derivatives.
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
                refusals.append(f"{title(entry.attack)}: its check failed: {reason}")
                continue
            if isinstance(plan, Inapplicable):
                refusals.append(f"{title(attack)}: {plan.reason}")
            else:
                able.append(_Able(title(attack), attack, plan, attack if known else entry))
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
    """Run the attacks until one settles the batch."""
    notes, results = list(refusals), list[tuple[Attack, Reconstruction]]()
    planned, done = max(1, sum(one.plan.evaluations for one in able)), 0

    def best_with(one: _Able, best: Callable[[], Reconstruction]) -> Reconstruction:
        """Return the best result, with one of an attack under way."""
        try:
            with contained(one.attack, one.source, "search"):
                latest = one.checked(observation, best())
        except FAILURES as error:
            if not results:
                raise
            return _best(results, [*notes, f"{one.title} failed: {error}"])
        return _best([*results, (one.attack, latest)], notes)

    for one in able:
        told = within(
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
                shown = _showing(told, partial(best_with, one))
                found = one.checked(observation, one.plan.search(seeds.child(one.title), shown))
        except FAILURES as error:
            notes.append(f"{one.title} failed: {error}")
            continue
        results.append((one.attack, found))
        notes.append(f"{one.title}: {found.status}, {found.message}")
        if settled(found):
            break
    if not results:
        raise AttackError(f"no attack that applies here could run: {'; '.join(notes)}")
    return _best(results, notes)


def _showing(
    progress: Progress, best_with: Callable[[Callable[[], Reconstruction]], Reconstruction]
) -> Progress:
    """Return the callback that shows the best reconstruction of the whole instead of that of a part."""

    def tell(moment: Moment) -> None:
        if isinstance(moment, Moment) and moment.best is not None:
            moment = replace(moment, best=partial(best_with, moment.best))
        progress(moment)

    return tell


def _best(results: list[tuple[Attack, Reconstruction]], notes: list[str]) -> Reconstruction:
    """Return the result of the least residual, with the cost of all."""
    attack, best = min(results, key=lambda pair: _residual(pair[1]))
    return replace(
        best,
        notes=(f"chosen by residual: {configuration_of(attack)}", *notes, *best.notes),
        cost=Cost(sum(result.cost.evaluations for _, result in results)),
    )


def title(attack: Attack) -> str:
    """The name of an attack in notes and seeds."""
    if isinstance(attack, OneGradient):
        return f"{title(attack.attack)} as if of one gradient"
    return type(attack).__name__


def settled(result: Reconstruction) -> bool:
    """Whether there is nothing for another attack to add."""
    recovered = result.diagnosis is not None and result.diagnosis.verdict == "recovered"
    # With several examples, other batches may give the same update.
    told = len(result.inputs) == 1 and _residual(result) <= EXACT
    return recovered or told or result.status is Status.CERTIFIED


def _residual(result: Reconstruction) -> float:
    if result.status is Status.CERTIFIED:
        return 0.0
    return math.inf if result.residual is None else result.residual
