"""Counts that a trained network's gradient bounds from below, completed by what it shows of each class. Ours.

A confident example leaves next to nothing in the gradient, and p = db + t is as unknown as the labels. What is
certain of targets of 0 and 1: k_c >= -K db_c, since p >= 0; and where features are not negative, c is present
if any entry of dW_c is negative. Let s_c be that bound, and S their sum. What is left of K goes to classes in
proportion to a prior: for those seen m_c^(S / K), where m_c = -K db_c / (1 - p_cc) counts them as if each were
as faint as their embedding says (`Ilrg`): that holds the better, the more of the batch is proven. For the
others (seen - 1) / (C - 1), so that one seen class takes all, and all classes seen share alike; but none for
a class that would get less than half an example.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from leakgauge.analytic.label_recovery.base import (
    LabelRecovery,
    head_of,
    many_steps,
    mean_gradient,
    told,
    whole,
)
from leakgauge.analytic.label_recovery.ilrg import embeddings, outputs
from leakgauge.analytic.label_recovery.stand_ins import features_of, natural
from leakgauge.analytic.last_layer import known_noise, shared_weight, units
from leakgauge.analytic.loss_link import LossLink
from leakgauge.analytic.whitening import Layer
from leakgauge.core import Inapplicable, Observation, Seeds, unit_shape
from leakgauge.core.ranges import Count
from leakgauge.federated.training.calibration import one_gradient

FAINT = 1e-6
"""Of the largest entry: a negative entry smaller than this may be rounding."""
CERTAIN = 6.0
"""Standard deviations of the noise below which nothing is proven."""
AMPLITUDES = (1.0, 10.0, 100.0)
"""Standard deviations, in unit coordinates, of the noise on which features are seen. A ReLU is at least 0 on all."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Any batch size, for confident networks; targets of 0 and 1. Needs the bias's gradient.

    `dummies` inputs tell whether features can be negative.
    """

    dummies: Count = 16

    def inapplicable(self, observation: Observation) -> str | None:
        found = head_of(observation, bias=True, one_hot=True, uneven=True)
        return found.reason if isinstance(found, Inapplicable) else None

    def __call__(self, observation: Observation, *, seeds: Seeds) -> LabelRecovery:
        layer, link = told(head_of(observation, bias=True, one_hot=True, uneven=True))
        seen = self.least(observation, layer, link, seeds)
        counts = completed(seen, layer.batch, amplified(layer, link))
        known = min(int(seen.sum()), layer.batch)
        if not one_gradient(observation):
            return LabelRecovery.of(counts, "bounds", "the update is only near one gradient")
        note = f"{known} of {layer.batch} labels are proven by the update, the others a prior's"
        return LabelRecovery.of(counts, "bounds", note, certified=known == layer.batch)

    def least(self, observation: Observation, layer: Layer, link: LossLink, seeds: Seeds) -> Tensor:
        """At least how many examples of each class (C,)."""
        signed = can_be_negative(observation, self.dummies, seeds.generator("dummies"))
        blur = blurred(observation, layer) + CERTAIN * noise_in(observation, layer, link)
        return shown(layer, link, signed=signed, blur=blur)


def can_be_negative(observation: Observation, dummies: int, generator: torch.Generator) -> bool:
    """Return whether features are seen below 0, on images and on values far beyond the domain's range."""
    inputs = [natural(observation, dummies, generator)]
    for amplitude in AMPLITUDES:
        drawn = torch.randn((dummies, *unit_shape(observation.domain)), generator=generator)
        inputs.append(observation.domain.from_unit(0.5 + amplitude * drawn))
    return any(bool((features_of(observation, some) < 0).any()) for some in inputs)


def noise_in(observation: Observation, layer: Layer, link: LossLink) -> float:
    """Return the standard deviation of the noise on an entry of the gradient, known or seen.

    Softmax's slopes sum to 0 over the classes, so every column of the gradient does. What a column sums to is noise,
    whether the adversary was told of it or not.
    """
    known = known_noise(observation, layer, shared_weight(observation))
    told = 0.0 if known is None else float(known.sigma)
    if link.activation != "softmax" or layer.dbias is None:
        return told
    columns = torch.cat([layer.dweight.sum(0), layer.dbias.sum().unsqueeze(0)])
    seen = float(columns.square().mean().sqrt()) / math.sqrt(len(layer.dbias))
    return max(told, seen)


def blurred(observation: Observation, layer: Layer) -> float:
    """What rounding of the weights themselves leaves in a gradient that is read from their difference."""
    training = many_steps(observation)
    if isinstance(training, Inapplicable):
        return 0.0
    step = torch.finfo(observation.update.like.dtype).eps
    size = float(layer.weight.abs().max()) * step / abs(training.multiplier(observation.batch_size))
    return size * units(layer, shared_weight(mean_gradient(observation, training)))


def shown(layer: Layer, link: LossLink, *, signed: bool, blur: float = 0.0) -> Tensor:
    """Return at least how many examples of each class (C,) there are. signed: whether features can be negative.

    blur: the error of an entry of the gradient, beside its own rounding. With class weights w and a mean over
    divisors d, k_c w_c d_c / sum_i d(y_i) >= -db_c, and that sum is B d at least for the smallest d.
    """
    assert layer.dbias is not None, "inapplicable() refuses this"
    divisors = link.reduction.divisors
    least = 1.0 if divisors is None else float(divisors.min())
    heaviest = link.scale * link.loads / least
    lowest = -layer.batch * layer.dbias / heaviest
    unsure = FAINT * max(1.0, float(lowest.abs().max())) + layer.batch * blur / heaviest.min()
    counts = torch.ceil(lowest - unsure).clamp_min(0).long()
    if not signed:
        negative = layer.dweight.min(1).values < -FAINT * layer.dweight.abs().max() - blur
        counts = torch.maximum(counts, negative.long())
    return counts


def amplified(layer: Layer, link: LossLink) -> Tensor:
    """How many examples of each class (C,), were all as faint as the class's embedding; 0 to B."""
    assert layer.dbias is not None, "inapplicable() refuses this"
    answers = link.value(outputs(layer, embeddings(layer)) / link.temperature).diagonal()
    faint = (1 - answers).clamp_min(1 / layer.batch)
    return (-layer.batch * layer.dbias / link.scale / link.weights / faint).clamp(0, layer.batch)


def completed(seen: Tensor, batch: int, amplitude: Tensor) -> Tensor:
    """Counts (C,) of `batch` examples, at least `seen` (C,), the rest by the prior of these amplitudes (C,)."""
    left = batch - int(seen.sum())
    if left <= 0:
        return whole(seen.double() * batch / seen.sum(), batch)
    share = max(0, int((seen > 0).sum()) - 1) / max(1, len(seen) - 1)
    prior = torch.maximum(seen.double(), amplitude) ** (float(seen.sum()) / batch)
    prior = prior / prior[seen > 0].mean() if bool(seen.any()) else prior
    prior = torch.where(seen > 0, prior, share)
    if not bool(prior.any()):
        prior = torch.ones_like(prior)
    counts = _filled(seen.double(), prior, batch)
    if bool(seen.any()):
        # A class that is more likely absent than there is given none, or many such would take all.
        prior[(seen == 0) & (counts < 0.5)] = 0
        counts = _filled(seen.double(), prior, batch)
    return seen + whole(counts - seen, left)


def _filled(seen: Tensor, prior: Tensor, batch: int) -> Tensor:
    """max(seen, level x prior), with the level at which they sum to `batch`."""
    low, high = 0.0, batch / float(prior[prior > 0].min())
    while high - low > 1e-9 * high:
        level = (low + high) / 2
        if float(torch.maximum(seen, level * prior).sum()) < batch:
            low = level
        else:
            high = level
    return torch.maximum(seen, high * prior)
