"""Label counts by stand-ins for the batch: a distribution over stand-ins is fitted to the gradient."""

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
    round_counts,
    shared_entries,
)
from leakgauge.analytic.label_recovery.ilrg import logits_of
from leakgauge.analytic.label_recovery.stand_ins import Auxiliary, features_of, natural, scenes
from leakgauge.analytic.loss_link import LossLink
from leakgauge.core import Inapplicable, Observation, Seeds
from leakgauge.core.ranges import Count, Positive

EXACT = 10.0
"""Weight of the misfit of db against that of dW. Features do not enter db, so it is exact."""
SLACK = 1e-2
"""Squared relative misfit that costs as much as a divergence of 1."""
COMMON = 0.1
"""Cost of a tilt that all classes share, relative to a tilt of one class alone."""
LEAST = 1e-6
"""Smallest probability in a law, for a stand-in that is almost impossible.

Also the smallest misfit that counts in the weights.
"""
STEPS = 60
"""Largest number of steps of L-BFGS."""


@dataclass(frozen=True)
class Tilt:
    """Counts that follow from one law of stand-ins.

    Args:
        counts: (C,), not rounded.
        misfit: Squared relative misfit of dW. It is 1 if nothing is explained.
    """

    counts: Tensor
    misfit: float


@dataclass(frozen=True)
class Estimate:
    """Counts that follow from all laws of stand-ins together.

    Args:
        counts: (C,), not rounded.
        misfit: The least squared relative misfit of dW among the laws.
        spread: Standard deviation of the counts over the laws, as a fraction of the batch.
    """

    counts: Tensor
    misfit: float
    spread: float

    @property
    def summary(self) -> str:
        """How well the stand-ins explain the gradient, in words."""
        left = f"stand-ins leave {min(self.misfit, 1.0):.0%} of the squared gradient unexplained"
        # With a single law there is no difference between counts to report.
        return (
            f"{left}, and their counts differ by {self.spread:.1%} of the batch"
            if self.spread > 0
            else left
        )


@dataclass(frozen=True, kw_only=True)
class Tilting(LabelMethod):
    r"""Recover label counts by a distribution over stand-ins that explains the gradient.

    Use it at any batch size, also with repeated labels, on networks with little training. The loss
    must have a slope of the form act(z) - target. The gradient of the last layer's bias is needed.

    The gradient of the bias is db = p - t, with the mean output p (C,) and the mean target t (C,).
    The counts therefore follow from p. Stand-ins with features h_n (d,) and outputs p_n (C,) model
    the batch. The fraction a_nc of the batch is like stand-in n and has label c. The fractions
    minimize

    .. math::

        &\frac{1}{\mathrm{SLACK}} \Big( \frac{\|dW - \sum_{nc} a_{nc} (p_n - t_c) h_n'\|^2}{\|dW\|^2}
        + \mathrm{EXACT} \frac{\|db - \sum_{nc} a_{nc} (p_n - t_c)\|^2}{\|db\|^2} \Big) \\
        &+ \mathrm{COMMON} \, \mathrm{KL}(b, 1/N)
        + \sum_c q_c \, \mathrm{KL}(a_{\cdot c} / q_c, \; b \, P(\cdot | c)).

    Here t_c is the target of class c, and q_c, the sum of a_nc over n, is free. P(n | c) is a law,
    the probability of stand-in n given label c. All classes tilt it by the same b_n, and each class
    tilts it a little more. The counts are :math:`k = B (\sum_{nc} a_{nc} p_n - db)`, with B the
    batch size.

    The true law is unknown, and two are tried. In the first, every label is equally likely, which
    suits untrained networks. In the second, P(n | c) is proportional to the output p_nc, which
    suits trained ones. Labeled examples allow a third: their own labels.

    Each kind of stand-in and each law gives counts. Their mean is weighted by the inverse square of
    the misfit. Their variance v, less the part that rounding to whole counts removes, shrinks the
    mean k towards equal counts k_0 (James and Stein 1961):

    .. math::

        k \leftarrow k_0 + \max(0, 1 - v / \|k - k_0\|^2) (k - k_0).

    Entries that a known defense dropped have no misfit. Where db was dropped, the db of the
    fractions replaces it.

    Args:
        auxiliary: Labeled examples of the adversary's own. By default dummies of two kinds are
            drawn.
        dummies: Number of dummies of each kind, at least 1. Default ours.
        explained: If the first law leaves a larger fraction of the squared gradient unexplained, no
            other is tried. Above 0. Default ours.

    References:
        Ours. The shrinkage is of James, Stein. Estimation with Quadratic Loss. Berkeley Symposium
        1961.

    Example:
        >>> import leakgauge as lg
        >>> from leakgauge.analytic.label_recovery import Tilting
        >>> observation = lg.examples.observation(batch_size=6, threat=lg.Server())
        >>> Tilting()(observation, seeds=lg.Seeds(0)).labels
        tensor([0, 1, 2, 3, 4, 5])
    """

    auxiliary: Auxiliary | None = None
    dummies: Count = 192
    explained: Positive = 0.5

    def prepare(self, observation: Observation) -> Reading | Inapplicable:
        found = biased_head_of(observation, uneven=True)
        if isinstance(found, Inapplicable):
            return found
        return partial(self.read, observation, found, shared_entries(observation))

    def read(
        self, observation: Observation, head: BiasedHead, mask: Tensor | None, seeds: Seeds
    ) -> LabelRecovery:
        """Return the counts that the stand-ins give. `mask`: see `shared_entries`."""
        found = self.estimate(observation, head, mask, seeds)
        return LabelRecovery.of(
            round_counts(found.counts, head.layer.batch), "tilting", found.summary
        )

    def estimate(
        self, observation: Observation, head: BiasedHead, mask: Tensor | None, seeds: Seeds
    ) -> Estimate:
        """Return the joint estimate of all stand-ins and laws. `mask`: see `shared_entries`."""
        layer, link, tilts = head.layer, head.link, list[Tilt]()
        for inputs, targets in self.stand_ins(observation, seeds):
            features = features_of(observation, head.head, inputs)
            answers = link.value(logits_of(layer, features) / link.temperature)
            for law in laws(answers, link, targets):
                tilt = fit_tilt(layer, link, features, answers, law, mask)
                tilts.append(tilt)
                if tilts[0].misfit > self.explained:
                    return merge(tilts, layer.batch)
        return merge(tilts, layer.batch)

    def stand_ins(
        self, observation: Observation, seeds: Seeds
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield inputs `(N, *shape)` of each kind, with their targets (N,), or None if they have no labels."""
        if self.auxiliary is not None:
            yield self.auxiliary.inputs, self.auxiliary.targets.cpu()
            return
        yield scenes(observation, self.dummies, seeds.generator("scenes")), None
        yield natural(observation, self.dummies, seeds.generator("dummies")), None


def laws(answers: Tensor, link: LossLink, targets: Tensor | None) -> list[Tensor]:
    """Return the logarithms (N, C) of the laws P(n | c) for outputs (N, C), up to a constant of each class."""
    found = [torch.zeros_like(answers)]
    if link.activation != "identity":
        found.append(answers.clamp_min(LEAST).log())
    if targets is not None:
        own = torch.zeros_like(answers)
        own[torch.arange(len(targets)), targets] = -math.log(LEAST)
        found.append(own)
    return found


def fit_tilt(
    layer: BiasedLayer,
    link: LossLink,
    features: Tensor,
    answers: Tensor,
    law: Tensor,
    mask: Tensor | None = None,
) -> Tilt:
    """Return the counts that one law of these stand-ins gives.

    Args:
        layer: The last layer with its gradients.
        link: The loss.
        features: (N, d), of the stand-ins.
        answers: (N, C), the network's outputs for the stand-ins.
        law: (N, C), logarithms of P(n | c).
        mask: (C, d + 1), the shared entries. See `shared_entries`.
    """
    size = features.mean(0).norm().clamp_min(1e-300)
    points = torch.cat([features / size, torch.ones(len(features), 1).double()], 1)
    goal = torch.cat([layer.dweight / size, layer.dbias.unsqueeze(1)], 1) / link.scale
    seen = torch.ones_like(goal) if mask is None else mask
    column = torch.ones(goal.shape[1]).double() / goal[:, :-1].square().sum().clamp_min(1e-300)
    # If the bias was dropped, it has no misfit to weigh.
    biases = goal[:, -1].square().sum()
    column[-1] = EXACT / biases if bool(seen[:, -1].any()) and float(biases) > 0 else 0.0
    common = torch.zeros(len(features), dtype=torch.float64, requires_grad=True)
    own = torch.zeros_like(answers, requires_grad=True)
    shares = torch.zeros(len(link.targets), dtype=torch.float64, requires_grad=True)

    def parts() -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the misfits by column, the divergences, each stand-in's fraction (N,), and their db (C,)."""
        tilt = common.log_softmax(0)
        base = (tilt.unsqueeze(1) + law).log_softmax(0)
        each = (base + own).log_softmax(0)
        joint = gradient_weights(each.exp() * shares.softmax(0), link)
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
            # A mean over class weights fixes only the sum of k_c d_c.
            found = found / found.sum()
    return Tilt(layer.batch * found, float(misfits[:-1].sum()))


def gradient_weights(joint: Tensor, link: LossLink) -> Tensor:
    """Return the weight (N, C) of each stand-in and class in the mean gradient. `joint` (N, C): their numbers."""
    loads = joint * link.loads
    divisors = link.reduction.divisors
    return loads if divisors is None else loads / (joint * divisors).sum()


def _descend(variables: list[Tensor], objective: Callable[[], Tensor]) -> None:
    """Minimize the objective over the variables by L-BFGS."""
    descent = torch.optim.LBFGS(
        variables, max_iter=STEPS, history_size=20, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        descent.zero_grad()
        value = objective()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    descent.step(closure)  # type: ignore[no-untyped-call]


def merge(tilts: list[Tilt], batch: int) -> Estimate:
    """Return the mean of the tilts, weighted by inverse squared misfits and shrunk towards equal counts.

    The variance of the tilts sets how far the mean is shrunk.
    """
    counts = torch.stack([tilt.counts for tilt in tilts])
    trust = torch.tensor([max(tilt.misfit, LEAST) ** -2 for tilt in tilts]).double()
    trust = trust / trust.sum()
    mean = trust @ counts
    others = max(1, len(tilts) - 1) / len(tilts)
    variance = float(trust @ (counts - mean).square().sum(1)) / others
    even = batch / len(mean)
    # Counts are whole numbers, so rounding removes an error below one half.
    unsure = max(0.0, variance - len(mean) / 4)
    kept = max(0.0, 1 - unsure / max(float((mean - even).square().sum()), 1e-300))
    best = min(tilt.misfit for tilt in tilts)
    return Estimate(even + kept * (mean - even), best, math.sqrt(variance) / batch)
