"""Every attack that the observation allows, closed forms first."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
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
    ModelError,
    Observation,
    ProbeError,
    Progress,
    Reconstruction,
    Seeds,
    Status,
)
from leakgauge.core.ranges import Count
from leakgauge.inversion.simulation.smoothing import bends

EXACT = 1e-5
"""Residual at which what is left of a float32 update is rounding: no residual chooses below it."""


FAILURES = (AttackError, ModelError, ProbeError)
"""What ends one attack on a user's model, and must not end the others."""


@dataclass(frozen=True, kw_only=True)
class Auto(BaseAttack):
    """Runs `attacks` in their order until one settles the batch, and returns the best match.

    By default closed forms first, descents after them. Settled is what is certified, matched with every
    direction of the batch told apart, or for a single example matched to rounding.
    "Best" is the least relative residual of the update: the adversary's own measure. The notes say
    what ran, what failed, and why what did not run could not. Second order is left to networks of at most `small`
    parameters: its matrices grow with them; DLG's L-BFGS to networks without ReLU. Name an attack to run it all
    the same.
    """

    attacks: tuple[Attack, ...] = (
        LinearLayer(),
        CocktailParty(),
        Spear(),
        RGAP(),
        Peeling(),
        April(),
        April(equations="embedding"),
        SoftmaxUnmixing(),
        DropoutInversion(attack=SecondOrder(), weight=0.0),
        SecondOrder(),
        SmoothedMatching(),
        IDLG(steps=100),
        BalancedDLG(),
        CorrectedSurrogate(),
        SurrogateModel(),
        InvertingGradients(steps=4000),
    )
    small: Count = 100_000
    # Each attack says by itself whether it needs derivatives.
    discrete: ClassVar[bool] = True

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"batch_size"})

    def applicable(self, observation: Observation) -> list[Attack]:
        """Return the attacks that can run here, in their order, each as `suit` has it."""
        return self.sorted_out(observation)[0]

    def unsuited(self, observation: Observation) -> str | None:
        able, refusals = self.sorted_out(observation)
        return None if able else "; ".join(refusals)

    def sorted_out(self, observation: Observation) -> tuple[list[Attack], list[str]]:
        """Return the attacks that can run here, and one line for each that cannot."""
        able: list[Attack] = []
        refusals: list[str] = []
        for attack in (suit(attack, observation) for attack in self.attacks):
            try:
                reason = self.refusal(attack, observation)
            except FAILURES as error:
                reason = f"its check failed: {error}"
            if reason is None:
                able.append(attack)
            else:
                refusals.append(f"{title(attack)}: {reason}")
        return able, refusals

    def refusal(self, attack: Attack, observation: Observation) -> str | None:
        """Return why `attack` cannot run here, or None if it can."""
        missing = sorted(attack.requires - observation.knowledge.granted())
        if missing:
            return f"needs {', '.join(missing)}"
        inner = attack.attack if isinstance(attack, OneGradient) else attack
        size = sum(tensor.numel() for tensor in observation.update.tensors.values())
        if (
            isinstance(inner, SecondOrder | SoftmaxUnmixing | DropoutInversion)
            and size > self.small
        ):
            return f"{size} parameters > {self.small} for second order: name it to run it"
        reason = attack.inapplicable(observation)
        if reason is not None:
            return reason
        if isinstance(inner, SmoothedMatching) and not bends(observation):
            return "no ReLU to smooth"
        if isinstance(inner, IDLG | BalancedDLG | CorrectedSurrogate) and bends(observation):
            return "L-BFGS needs curvature, which ReLU has not: name it to run it"
        return None

    def evaluations(self, observation: Observation) -> int:
        return sum(a.evaluations(observation) for a in self.applicable(observation))

    def reconstruct(
        self, observation: Observation, *, seeds: Seeds, progress: Progress
    ) -> Reconstruction:
        clock = time.perf_counter()
        able, notes = self.sorted_out(observation)
        costs = [attack.evaluations(observation) for attack in able]
        planned, done = max(1, sum(costs)), 0
        results: list[tuple[Attack, Reconstruction]] = []
        for attack, cost in zip(able, costs, strict=True):
            share, start = cost / planned, done / planned
            done += cost
            try:
                result = attack(
                    observation,
                    seeds=seeds.child(title(attack)),
                    progress=lambda f, start=start, share=share: progress(start + share * f),  # type: ignore[misc]
                )
            except FAILURES as error:
                notes.append(f"{title(attack)} failed: {error}")
                continue
            results.append((attack, result))
            notes.append(f"{title(attack)}: {result.status}, {result.message}")
            if settled(result):
                break
        progress(1.0)
        if not results:
            raise AttackError(f"no attack that applies here could run: {'; '.join(notes)}")
        attack, best = min(results, key=lambda pair: _residual(pair[1]))
        spent = sum(result.cost.evaluations for _, result in results)
        return replace(
            best,
            notes=(f"chosen by residual: {attack!r}", *notes, *best.notes),
            cost=Cost(spent, time.perf_counter() - clock),
        )


def suit(attack: Attack, observation: Observation) -> Attack:
    """Return the attack, or `OneGradient` of it if it cannot read an update of several local steps."""
    if observation.training.kind == "gradient" or isinstance(attack, OneGradient):
        return attack
    try:
        return attack if attack.inapplicable(observation) is None else OneGradient(attack=attack)
    except FAILURES:
        return attack  # its check fails again where it is asked for the reason


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
