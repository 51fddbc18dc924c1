"""Attacks on one gradient, applied to updates of several local steps."""

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
    scale_progress,
)
from leakgauge.federated.training.local_steps import as_one_gradient
from leakgauge.federated.training.withheld import is_withheld
from leakgauge.inversion.objectives.distances import MATCHED
from leakgauge.inversion.search.judgment import residual_of

DEFAULT = InvertingGradients(steps=4000)


@dataclass(frozen=True, kw_only=True)
class OneGradient(BaseAttack):
    r"""Run an attack on an update of several local steps as if it were one gradient.

    Try it first on weight differences. It is accurate if the local steps are few and small. The
    residual is computed with the true local steps, so it includes the error of this simplification.

    .. math::

        w_{\text{end}} - w_{\text{start}} = -\sum_k \eta_k g_k
        \approx -\Big(\sum_k \eta_k\Big) \nabla L(w_{\text{start}}; \text{whole batch})

    Here :math:`g_k` is the gradient and :math:`\eta_k` the learning rate of local step :math:`k`,
    :math:`w` are the weights and :math:`L` is the loss.

    Args:
        attack: Any attack on one gradient. The default is `InvertingGradients` with 4000 steps.

    References:
        None: a usual first approximation, without a paper of its own.

    Example:
        >>> import leakgauge as lg
        >>> training = lg.FedAvg(epochs=2, minibatch=1, learning_rate=0.05)
        >>> observation = lg.examples.observation(batch_size=1, training=training)
        >>> attack = lg.attacks.OneGradient(attack=lg.attacks.LinearLayer())
        >>> found = attack(observation, seeds=lg.Seeds(0))
        >>> found.status
        <Status.CONVERGED: 'converged'>
    """

    attack: Attack = DEFAULT

    @property
    def requires(self) -> frozenset[str]:
        return self.attack.requires | {"batch_size"}

    def prepare(self, observation: Observation) -> Plan | Inapplicable:
        if observation.training.kind == "gradient":
            return Inapplicable("the update is one gradient already: run the inner attack itself")
        plan = self.attack.plan(as_one_gradient(observation))
        if isinstance(plan, Inapplicable):
            return plan
        finish = partial(judge, observation)

        def search(seeds: Seeds, progress: Progress) -> Reconstruction:
            return finish(plan.search(seeds, scale_progress(progress, 0.0, 1.0, finish=finish)))

        return Plan(evaluations=plan.evaluations + 1, search=search)


def judge(observation: Observation, found: Reconstruction) -> Reconstruction:
    """Return a reconstruction with the status and residual that it has under the true local steps.

    Args:
        observation: The observation with the true local training.
        found: The result of an attack that assumed a simpler protocol.
    """
    residual = residual_of(observation, found)
    status, message = found.status, found.message
    matched = residual is not None and residual <= MATCHED and not is_withheld(observation.training)
    if matched:
        status = Status.CONVERGED
    elif status in (Status.CERTIFIED, Status.CONVERGED):
        status = Status.UNCONVERGED
    if residual is not None:
        steps = (
            "one gradient, since the local steps are not known"
            if is_withheld(observation.training)
            else "the true local steps"
        )
        message = f"under {steps}, the update is matched to {residual:.2g} of its norm"
    # The diagnosis holds for the Jacobian of the simpler protocol only.
    return replace(found, status=status, message=message, residual=residual, diagnosis=None)
