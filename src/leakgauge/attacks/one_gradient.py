"""The local steps ignored: a weight difference attacked as if it were one gradient. The usual first try.

    w_end - w_start = -sum_k lr_k g_k  ~  -(sum_k lr_k) grad L(w_start; whole batch)

Near where steps are few and small. What was ignored shows in the residual, which is that of the true protocol.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from leakgauge.attacks.inverting_gradients import InvertingGradients
from leakgauge.core import (
    Attack,
    BaseAttack,
    Inapplicable,
    Observation,
    Plan,
    Progress,
    Reconstruction,
    Seeds,
    Status,
    within,
)
from leakgauge.federated.training.local_steps import as_one_gradient
from leakgauge.federated.training.withheld import is_withheld
from leakgauge.inversion.objectives.distances import MATCHED
from leakgauge.inversion.search.judgment import residual_of

DEFAULT = InvertingGradients(steps=4000)


@dataclass(frozen=True, kw_only=True)
class OneGradient(BaseAttack):
    """`attack` on an update of several local steps, as if it were one gradient."""

    attack: Attack = DEFAULT

    @property
    def requires(self) -> frozenset[str]:
        return self.attack.requires | {"batch_size"}

    def prepare(self, observation: Observation) -> Plan | Inapplicable:
        if observation.training.kind == "gradient":
            return Inapplicable("the update is one gradient already")
        plan = self.attack.plan(as_one_gradient(observation))
        if isinstance(plan, Inapplicable):
            return plan
        finish = partial(judged, observation)

        def search(seeds: Seeds, progress: Progress) -> Reconstruction:
            return finish(plan.search(seeds, within(progress, 0.0, 1.0, finish=finish)))

        return Plan(evaluations=plan.evaluations + 1, search=search)


def judged(observation: Observation, found: Reconstruction) -> Reconstruction:
    """Return a reconstruction under a simpler protocol, with status and residual under the one in use."""
    residual = residual_of(observation, found)
    status, message = found.status, found.message
    matched = residual is not None and residual <= MATCHED and not is_withheld(observation.training)
    if matched:
        status = Status.CONVERGED
    elif status in (Status.CERTIFIED, Status.CONVERGED):
        status = Status.UNCONVERGED
    if residual is not None:
        steps = (
            "one gradient, the steps not told"
            if is_withheld(observation.training)
            else "the true steps"
        )
        message = f"under {steps}, the update is matched to {residual:.2g} of its norm"
    # What a simpler protocol's Jacobian tells apart says nothing of this one.
    return replace(found, status=status, message=message, residual=residual, diagnosis=None)
