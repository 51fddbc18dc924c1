"""What `Auto` may run: an attack, the networks on which it is tried, and guards."""

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
"""Return why `Auto` leaves an attack out although it can run, or None if it runs it. Its repr is in records."""


@dataclass(frozen=True)
class HasReLU:
    """Leave an attack out unless the model runs a ReLU."""

    def __call__(self, observation: Observation) -> str | None:
        return None if runs_relu(observation) else "no ReLU to smooth"


@dataclass(frozen=True)
class HasCurvature:
    """Leave an attack out if the model runs a ReLU, whose second derivative is zero almost everywhere."""

    def __call__(self, observation: Observation) -> str | None:
        if runs_relu(observation):
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
