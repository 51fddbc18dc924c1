"""Entries of `Auto`: an attack with the conditions under which it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from leakgauge.attacks.one_gradient import OneGradient
from leakgauge.core import Attack, Inapplicable, Observation, Plan
from leakgauge.core.origin import is_our_class
from leakgauge.core.ranges import Count
from leakgauge.inversion.search.claims import copy_for_attack, plan_of
from leakgauge.inversion.simulation.smoothing import runs_relu

Guard = Callable[[Observation], str | None]
"""A function that returns why `Auto` leaves out an attack that can run, or None. Records hold the function's repr."""


@dataclass(frozen=True)
class HasReLU:
    """A guard that leaves an attack out unless the model runs a ReLU."""

    def __call__(self, observation: Observation) -> str | None:
        return None if runs_relu(observation) else "the model runs no ReLU to smooth"


@dataclass(frozen=True)
class HasCurvature:
    """A guard that leaves an attack out if the model runs a ReLU.

    The second derivative of a ReLU is 0 almost everywhere.
    """

    def __call__(self, observation: Observation) -> str | None:
        if runs_relu(observation):
            return "L-BFGS needs curvature, which a ReLU lacks: name the attack to run it anyway"
        return None


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One attack that `Auto` may run, with the conditions under which it runs.

    Args:
        attack: An attack of LeakGauge or a user's own.
        most_parameters: Largest number of parameters, at least 1, of a network on which the attack
            runs. None: any number.
        guards: Functions that may leave out an attack that can run. `HasReLU` and `HasCurvature`
            are two of them.
        decisive: Whether the attack reads each example alone. A match of the update then ends the
            search, also for a batch. Otherwise the attacks behind it get the labels that it
            recovered.

    Example:
        >>> import leakgauge as lg
        >>> entry = lg.attacks.Entry(attack=lg.attacks.RGAP(), most_parameters=10)
        >>> _, plan = entry.plan(lg.examples.observation())
        >>> plan.reason
        '2410 parameters, more than 10: name the attack to run it anyway'
    """

    attack: Attack
    most_parameters: Count | None = None
    guards: tuple[Guard, ...] = ()
    decisive: bool = False

    def plan(self, observation: Observation) -> tuple[Attack, Plan | Inapplicable]:
        """Return the attack to run, with its plan or the reason why it is left out.

        If the attack cannot run on an update of several local steps, it is wrapped in
        `OneGradient`.

        Raises:
            AttackError, ModelError, ProbeError: The check failed on the model or the loss.
        """
        missing = sorted(self.attack.requires - observation.knowledge.granted())
        if missing:
            return self.attack, Inapplicable(f"needs {', '.join(missing)}")
        size = observation.update.size
        if self.most_parameters is not None and size > self.most_parameters:
            reason = f"{size} parameters, more than {self.most_parameters}: name the attack to run it anyway"
            return self.attack, Inapplicable(reason)
        attack, plan = self.attack, plan_of(self.attack, observation)
        several = observation.training.kind != "gradient"
        if isinstance(plan, Inapplicable) and several and not isinstance(attack, OneGradient):
            attack = OneGradient(attack=attack)
            plan = plan_of(attack, observation)
        if isinstance(plan, Inapplicable):
            return attack, plan
        for guard in self.guards:
            known = is_our_class(type(guard))
            left_out = guard(observation if known else copy_for_attack(observation))
            if left_out is not None:
                return attack, Inapplicable(left_out)
        return attack, plan
