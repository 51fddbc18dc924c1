"""Counts by tilted stand-ins: the distribution nearest to stand-ins that would have given this gradient. Ours.

db = p - t needs p, the mean answer of the network to the batch, and the gradient of the weight tells more of
it. Stand-ins (h_n, p_n), natural-looking dummies or labeled examples of another source, get shares a_nc of the
batch, n with label c, nearest to a law P(n | c) that all classes tilt alike by b_n, and each a little more:

    minimize   (|| dW - sum_nc a_nc (p_n - t_c) h_n' ||^2 / || dW ||^2  +  the same of db) / SLACK
               + COMMON KL(b, 1/N)  +  sum_c q_c KL(a_.c / q_c, b P(. | c)),          q_c = sum_n a_nc free.

Then k = K (sum_nc a_nc p_n - db). Of entries that a known defense did not send, neither misfit counts, and for db
stands what the shares make of it. Nobody knows P(n | c): a dummy's label is anyone's, as in networks that are not
trained, or the network answers it (P ~ p_nc), as in those that are; and no dummies are the client's images. So each
kind of stand-in and each law answers, weighted by the inverse square of the misfit it leaves, and their variance
v about their mean, beyond what rounding to whole counts removes, tells how far to trust it: with all classes alike
at k0 (James and Stein 1961)

    k  <-  k0 + max(0, 1 - v / |k - k0|^2) (k - k0).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from leakgauge.analytic.label_recovery.base import (
    BiasedHead,
    BiasedLayer,
    LabelMethod,
    LabelRecovery,
    Reading,
    biased_head_of,
    sent,
    whole,
)
from leakgauge.analytic.label_recovery.ilrg import outputs
from leakgauge.analytic.label_recovery.stand_ins import Auxiliary, features_of, natural, scenes
from leakgauge.analytic.loss_link import LossLink
from leakgauge.core import Inapplicable, Observation, Seeds
from leakgauge.core.ranges import Count, Positive

EXACT = 10.0
"""Weight of db, which no feature blurs, against dW."""
SLACK = 1e-2
"""The squared relative misfit that costs as much as a divergence of 1."""
COMMON = 0.1
"""What a tilt that all classes share costs, against one of a class alone."""
LEAST = 1e-6
"""Of a law, where a stand-in is all but impossible."""
STEPS = 60


@dataclass(frozen=True)
class Tilt:
    """What one law of stand-ins tells: counts (C,), not whole, and the squared misfit of dW, 1 for no answer."""

    counts: Tensor
    misfit: float


@dataclass(frozen=True)
class Estimate:
    """Counts (C,), not whole; the least misfit; spread: of the tilts about them, as a share of the batch."""

    counts: Tensor
    misfit: float
    spread: float

    @property
    def told(self) -> str:
        """How well the stand-ins did, in words."""
        left = f"stand-ins leave {min(self.misfit, 1.0):.0%} of the gradient unexplained"
        # One answer alone differs from none.
        return f"{left}, and differ by {self.spread:.1%} of the batch" if self.spread > 0 else left


@dataclass(frozen=True, kw_only=True)
class Tilting(LabelMethod):
    """Any batch size, labels repeated; losses of the form act(z) - target. Needs the bias's gradient.

    auxiliary: labeled examples that the adversary has; without them `dummies` of each kind are drawn. Where the
    first law leaves more than `explained` of the gradient unexplained, squared, no other is tried.
    """

    auxiliary: Auxiliary | None = None
    dummies: Count = 192
    explained: Positive = 0.5

    def prepare(self, observation: Observation) -> Reading | Inapplicable:
        found = biased_head_of(observation, uneven=True)
        if isinstance(found, Inapplicable):
            return found
        return partial(self.read, observation, found, sent(observation))

    def read(
        self, observation: Observation, head: BiasedHead, mask: Tensor | None, seeds: Seeds
    ) -> LabelRecovery:
        """Return the counts that the stand-ins tell. mask: as in `sent`."""
        found = self.estimate(observation, head, mask, seeds)
        return LabelRecovery.of(whole(found.counts, head.layer.batch), "tilting", found.told)

    def estimate(
        self, observation: Observation, head: BiasedHead, mask: Tensor | None, seeds: Seeds
    ) -> Estimate:
        """Return what the stand-ins tell together. mask: as in `sent`."""
        layer, link, tilts = head.layer, head.link, list[Tilt]()
        for inputs, targets in self.stand_ins(observation, seeds):
            features = features_of(observation, head.head, inputs)
            answers = link.value(outputs(layer, features) / link.temperature)
            for law in laws(answers, link, targets):
                tilt = tilted(layer, link, features, answers, law, mask)
                tilts.append(tilt)
                if tilts[0].misfit > self.explained:
                    return merged(tilts, layer.batch)
        return merged(tilts, layer.batch)

    def stand_ins(
        self, observation: Observation, seeds: Seeds
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Inputs (N, *shape) of each kind and, where they are labeled, targets (N,)."""
        if self.auxiliary is not None:
            yield self.auxiliary.inputs, self.auxiliary.targets.cpu()
            return
        yield scenes(observation, self.dummies, seeds.generator("scenes")), None
        yield natural(observation, self.dummies, seeds.generator("dummies")), None


def laws(answers: Tensor, link: LossLink, targets: Tensor | None) -> list[Tensor]:
    """Logarithms of the laws P(n | c) (N, C), up to a constant of each class; answers (N, C)."""
    found = [torch.zeros_like(answers)]
    if link.activation != "identity":
        found.append(answers.clamp_min(LEAST).log())
    if targets is not None:
        own = torch.zeros_like(answers)
        own[torch.arange(len(targets)), targets] = -math.log(LEAST)
        found.append(own)
    return found


def tilted(
    layer: BiasedLayer,
    link: LossLink,
    features: Tensor,
    answers: Tensor,
    law: Tensor,
    mask: Tensor | None = None,
) -> Tilt:
    """The counts that these stand-ins tell; features (N, d), answers (N, C), law (N, C), mask (C, d + 1) as `sent`."""
    size = features.mean(0).norm().clamp_min(1e-300)
    points = torch.cat([features / size, torch.ones(len(features), 1).double()], 1)
    goal = torch.cat([layer.dweight / size, layer.dbias.unsqueeze(1)], 1) / link.scale
    seen = torch.ones_like(goal) if mask is None else mask
    column = torch.ones(goal.shape[1]).double() / goal[:, :-1].square().sum().clamp_min(1e-300)
    # Of a bias that was not sent there is no misfit to weigh.
    biases = goal[:, -1].square().sum()
    column[-1] = EXACT / biases if bool(seen[:, -1].any()) and float(biases) > 0 else 0.0
    common = torch.zeros(len(features), dtype=torch.float64, requires_grad=True)
    own = torch.zeros_like(answers, requires_grad=True)
    shares = torch.zeros(len(link.targets), dtype=torch.float64, requires_grad=True)

    def parts() -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The misfit of each column, the divergences, the share (N,) of each stand-in, and the db (C,) they make."""
        tilt = common.log_softmax(0)
        base = (tilt.unsqueeze(1) + law).log_softmax(0)
        each = (base + own).log_softmax(0)
        joint = weighed(each.exp() * shares.softmax(0), link)
        explained = (answers * joint.sum(1, keepdim=True) - joint @ link.targets).T @ points
        away = (tilt.exp() * tilt).sum() + math.log(len(tilt))
        far = (each.exp() * shares.softmax(0) * (each - base)).sum()
        misfits = ((explained - goal) * seen).square().sum(0) * column
        return misfits, COMMON * away + far, joint.sum(1), explained[:, -1]

    def objective() -> Tensor:
        misfits, divergence, *_ = parts()
        return misfits.sum() / SLACK + divergence

    _descend([common, own, shares], objective)
    with torch.no_grad():
        misfits, _, each, made = parts()
        unknown = each @ answers - torch.where(seen[:, -1] != 0, goal[:, -1], made)
        found = torch.linalg.solve(link.targets.T, unknown) / link.loads
        if link.reduction.divisors is not None and not link.even:
            found = found / found.sum()  # a mean over class weights fixes the sum of k_c d_c alone
    return Tilt(layer.batch * found, float(misfits[:-1].sum()))


def weighed(joint: Tensor, link: LossLink) -> Tensor:
    """How much each stand-in of each class (N, C) weighs in the mean gradient; joint (N, C): how many there are."""
    loads = joint * link.loads
    divisors = link.reduction.divisors
    return loads if divisors is None else loads / (joint * divisors).sum()


def _descend(variables: list[Tensor], objective: Callable[[], Tensor]) -> None:
    descent = torch.optim.LBFGS(
        variables, max_iter=STEPS, history_size=20, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        descent.zero_grad()
        value = objective()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    descent.step(closure)  # type: ignore[no-untyped-call]


def merged(tilts: list[Tilt], batch: int) -> Estimate:
    """The mean of the tilts, by the inverse squares of misfits, drawn to all classes alike by their variance."""
    counts = torch.stack([tilt.counts for tilt in tilts])
    trust = torch.tensor([max(tilt.misfit, LEAST) ** -2 for tilt in tilts]).double()
    trust = trust / trust.sum()
    mean = trust @ counts
    others = max(1, len(tilts) - 1) / len(tilts)
    variance = float(trust @ (counts - mean).square().sum(1)) / others
    even = batch / len(mean)
    # Counts are whole: an error of less than a half is rounded away.
    unsure = max(0.0, variance - len(mean) / 4)
    kept = max(0.0, 1 - unsure / max(float((mean - even).square().sum()), 1e-300))
    best = min(tilt.misfit for tilt in tilts)
    return Estimate(even + kept * (mean - even), best, math.sqrt(variance) / batch)
