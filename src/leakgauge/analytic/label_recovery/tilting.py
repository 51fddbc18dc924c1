"""Counts by tilted stand-ins: the distribution nearest to stand-ins that would have given this gradient. Ours.

db = p - t needs p, the mean answer of the network to the batch, and the gradient of the weight tells more of
it. Stand-ins (h_n, p_n), natural-looking dummies or labeled examples of another source, get weights a_n, and

    minimize over a, q   || dW - sum_n a_n (p_n - t_n) h_n' ||^2 / || dW ||^2  +  the same of db  +  e KL(a, 1/N),

where t_n is the target of a labeled stand-in, and sum_c q_c t_c of a dummy, whose label is anyone's. Then
k = K (sum_n a_n p_n - db) for dummies and K sum of a_n over class c for labeled ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from leakgauge.analytic.label_recovery.base import LabelRecovery, head_of, told, whole
from leakgauge.analytic.label_recovery.ilrg import outputs
from leakgauge.analytic.label_recovery.stand_ins import Auxiliary, features_of, natural
from leakgauge.analytic.links import Link
from leakgauge.analytic.whitening import Layer
from leakgauge.core import Observation, Seeds
from leakgauge.core.ranges import Count, Positive

EXACT = 10.0
"""Weight of db, which no feature blurs, against dW."""
STEPS = 100


@dataclass(frozen=True, kw_only=True)
class Tilting:
    """Any batch size, labels repeated; losses of the form act(z) - target. Needs the bias's gradient.

    auxiliary: labeled examples that the adversary has; without them `dummies` are drawn.
    """

    auxiliary: Auxiliary | None = None
    dummies: Count = 128
    entropy: Positive = 1e-4

    def inapplicable(self, observation: Observation) -> str | None:
        found = head_of(observation, bias=True)
        return found if isinstance(found, str) else None

    def __call__(self, observation: Observation, *, seeds: Seeds) -> LabelRecovery:
        layer, link = told(head_of(observation, bias=True))
        inputs, targets = self.stand_ins(observation, seeds)
        features = features_of(observation, inputs)
        estimate, _ = tilted(layer, link, features, targets, entropy=self.entropy)
        return LabelRecovery.of(whole(estimate, layer.batch), "tilting")

    def stand_ins(self, observation: Observation, seeds: Seeds) -> tuple[Tensor, Tensor | None]:
        """Inputs (N, *shape) and, where they are labeled, targets (N,)."""
        if self.auxiliary is not None:
            return self.auxiliary.inputs, self.auxiliary.targets.cpu()
        return natural(observation, self.dummies, seeds.generator("dummies")), None


def tilted(
    layer: Layer, link: Link, features: Tensor, targets: Tensor | None, *, entropy: float
) -> tuple[Tensor, float]:
    """Counts (C,), not yet whole, and the misfit of dW: squared, 1 where nothing is explained.

    features (N, d) and labels (N,) of the stand-ins, None where they have none.
    """
    assert layer.dbias is not None, "inapplicable() refuses this"
    answers = link.value(outputs(layer, features) / link.temperature)
    size = features.mean(0).norm().clamp_min(1e-300)
    points = torch.cat([features / size, torch.ones(len(features), 1).double()], 1)
    goal = torch.cat([layer.dweight / size, layer.dbias.unsqueeze(1)], 1) / link.scale
    column = torch.ones(goal.shape[1]).double() / goal[:, :-1].square().sum().clamp_min(1e-300)
    column[-1] = EXACT / goal[:, -1].square().sum().clamp_min(1e-300)
    slopes = answers if targets is None else answers - link.targets[targets]
    weights = torch.zeros(len(features), dtype=torch.float64, requires_grad=True)
    shares = torch.zeros(len(link.targets), dtype=torch.float64, requires_grad=targets is None)

    def misfits() -> tuple[Tensor, Tensor]:
        """Of each column, and the entropy."""
        tilt = weights.log_softmax(0)
        each = tilt.exp()
        explained = (slopes * each.unsqueeze(1)).T @ points
        if targets is None:
            explained = explained - torch.outer(shares.softmax(0) @ link.targets, each @ points)
        return (explained - goal).square().sum(0) * column, (each * tilt).sum()

    _descend([weights] if targets is not None else [weights, shares], misfits, entropy)
    with torch.no_grad():
        misfit = float(misfits()[0][:-1].sum())
        each = weights.softmax(0)
        if targets is not None:
            found = torch.zeros(len(shares)).double().index_add(0, targets, each)
        else:
            unknown = each @ answers - layer.dbias / link.scale
            found = torch.linalg.solve(link.targets.T, unknown)
    return layer.batch * found, misfit


def _descend(
    variables: list[Tensor], misfits: Callable[[], tuple[Tensor, Tensor]], entropy: float
) -> None:
    """Minimize the misfit and `entropy` of the negative entropy."""
    descent = torch.optim.LBFGS(
        variables, max_iter=STEPS, history_size=20, line_search_fn="strong_wolfe"
    )

    def objective() -> Tensor:
        descent.zero_grad()
        misfit, negative = misfits()
        value = misfit.sum() + entropy * negative
        value.backward()  # type: ignore[no-untyped-call]
        return value

    descent.step(objective)  # type: ignore[no-untyped-call]
