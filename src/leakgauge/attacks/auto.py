"""Every attack that the observation allows, closed forms first."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

from leakgauge.attacks.april import April
from leakgauge.attacks.balanced_dlg import BalancedDLG
from leakgauge.attacks.cocktail_party import CocktailParty
from leakgauge.attacks.corrected_surrogate import CorrectedSurrogate
from leakgauge.attacks.dropout_inversion import DropoutInversion
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
    ModelError,
    Observation,
    Plan,
    ProbeError,
    Progress,
    Reconstruction,
    Seeds,
    Status,
    within,
)
from leakgauge.core.attack import named_failures
from leakgauge.core.configuration import configuration_of
from leakgauge.core.progress import no_objective
from leakgauge.core.ranges import Count
from leakgauge.core.verdicts import bounded
from leakgauge.inversion.search.judgment import measured
from leakgauge.inversion.simulation.smoothing import bends

EXACT = 1e-5
"""Residual at which what is left of a float32 update is rounding: no residual chooses below it."""
FAILURES = (AttackError, ModelError, ProbeError)
"""What ends one attack on a user's model, and must not end the others."""
SMALL = 100_000
"""Most parameters of a network that second order is tried on by default: its matrices grow with them."""

Guard = Callable[[Observation], str | None]
"""Return why `Auto` leaves an attack out although it can run, or None if it runs it. Its repr is in records."""


@dataclass(frozen=True)
class HasReLU:
    """Leave an attack out unless the model runs a ReLU."""

    def __call__(self, observation: Observation) -> str | None:
        return None if bends(observation) else "no ReLU to smooth"


@dataclass(frozen=True)
class HasCurvature:
    """Leave an attack out if the model runs a ReLU, whose second derivative is zero almost everywhere."""

    def __call__(self, observation: Observation) -> str | None:
        if bends(observation):
            return "L-BFGS needs curvature, which ReLU has not: name it to run it"
        return None


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One attack that `Auto` may run, and when it does so.

    Args:
        attack: ours or a user's own.
        most_parameters: size of the largest network on which it is tried. None: any.
        guards: reasons to leave it out although it can run.
    """

    attack: Attack
    most_parameters: Count | None = None
    guards: tuple[Guard, ...] = ()

    def plan(self, observation: Observation) -> tuple[Attack, Plan | Inapplicable]:
        """Return the attack as it suits the observation, with its plan or the reason why it is left out.

        An attack that cannot read an update of several local steps is taken as if it were of one gradient.

        Raises:
            AttackError, ModelError, ProbeError: the check failed on the model or the loss.
        """
        missing = sorted(self.attack.requires - observation.knowledge.granted())
        if missing:
            return self.attack, Inapplicable(f"needs {', '.join(missing)}")
        size = observation.update.size
        if self.most_parameters is not None and size > self.most_parameters:
            reason = (
                f"{size} parameters > {self.most_parameters} for second order: name it to run it"
            )
            return self.attack, Inapplicable(reason)
        attack, plan = self.attack, _planned(self.attack, observation)
        several = observation.training.kind != "gradient"
        if isinstance(plan, Inapplicable) and several and not isinstance(attack, OneGradient):
            attack = OneGradient(attack=attack)
            plan = _planned(attack, observation)
        if isinstance(plan, Inapplicable):
            return attack, plan
        for guard in self.guards:
            left_out = guard(observation)
            if left_out is not None:
                return attack, Inapplicable(left_out)
        return attack, plan


def _planned(attack: Attack, observation: Observation) -> Plan | Inapplicable:
    """Return the plan of an attack, ours or a user's own. Raise AttackError if it returned something else."""
    with named_failures(attack, "check"):
        plan = attack.plan(observation)
    if isinstance(plan, Plan | Inapplicable):
        return plan
    raise AttackError(
        f"{type(attack).__name__}.plan: expected a Plan, or Inapplicable with the reason; found an object of type "
        f"{type(plan).__name__}"
    )


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
    """An attack that runs, with its name in notes and seeds."""

    title: str
    attack: Attack
    plan: Plan


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

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"batch_size"})

    def prepare(self, observation: Observation) -> Plan | Inapplicable:
        able: list[_Able] = []
        refusals: list[str] = []
        for one in self.attacks:
            entry = one if isinstance(one, Entry) else Entry(attack=one)
            try:
                attack, plan = entry.plan(observation)
            except FAILURES as error:
                reason = " ".join(str(error).split())
                refusals.append(f"{title(entry.attack)}: its check failed: {reason}")
                continue
            if isinstance(plan, Inapplicable):
                refusals.append(f"{title(attack)}: {plan.reason}")
            else:
                able.append(_Able(title(attack), attack, plan))
        if not self.attacks:
            return Inapplicable("it has no attacks: name one in `attacks`")
        if not able:
            return Inapplicable("; ".join(refusals))
        return Plan(
            evaluations=sum(one.plan.evaluations for one in able),
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

    def checked(attack: Attack, found: Reconstruction) -> Reconstruction:
        # A user's own attack may claim what it likes.
        return bounded(measured(attack, observation, found))

    def chosen(attack: Attack, latest: Reconstruction) -> Reconstruction:
        return _best([*results, (attack, checked(attack, latest))], notes)

    for one in able:
        told = within(
            progress,
            done / planned,
            one.plan.evaluations / planned,
            evaluations=sum(result.cost.evaluations for _, result in results),
            finish=partial(chosen, one.attack),
            objective=no_objective,
            best=partial(_best, list(results), list(notes)) if results else None,
        )
        done += one.plan.evaluations
        try:
            with named_failures(one.attack, "search"):
                found = checked(one.attack, one.plan.search(seeds.child(one.title), told))
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
