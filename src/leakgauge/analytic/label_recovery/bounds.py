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
    many_steps,
    whole,
)
from leakgauge.analytic.label_recovery.ilrg import embeddings, outputs
from leakgauge.analytic.label_recovery.stand_ins import features_of, natural
from leakgauge.analytic.last_layer import known_noise, units
from leakgauge.analytic.loss_link import LossLink
from leakgauge.core import Inapplicable, Observation, Seeds, unit_shape
from leakgauge.core.ranges import Count
from leakgauge.federated.training.calibration import one_gradient
from leakgauge.output import Head

FAINT = 1e-6
"""Of the largest entry: a negative entry smaller than this may be rounding."""
CERTAIN = 6.0
"""Standard deviations of the noise below which nothing is proven."""
AMPLITUDES = (1.0, 10.0, 100.0)
"""Standard deviations, in unit coordinates, of the noise on which features are seen. A ReLU is at least 0 on all."""


@dataclass(frozen=True, kw_only=True)
class Bounds(LabelMethod):
    """Any batch size, for confident networks; targets of 0 and 1. Needs the bias's gradient.

    `dummies` inputs tell whether features can be negative.
    """

    dummies: Count = 16

    def prepare(self, observation: Observation) -> Reading | Inapplicable:
        found = biased_head_of(observation, one_hot=True, uneven=True)
        return found if isinstance(found, Inapplicable) else partial(self.read, observation, found)

    def read(self, observation: Observation, head: BiasedHead, seeds: Seeds) -> LabelRecovery:
        """Return the counts that the head's gradient bounds, completed by a prior."""
        layer = head.layer
        seen = self.least(observation, head, seeds)
        counts = completed(seen, layer.batch, amplified(layer, head.link))
        known = min(int(seen.sum()), layer.batch)
        if not one_gradient(observation):
            return LabelRecovery.of(counts, "bounds", "the update is only near one gradient")
        note = f"{known} of {layer.batch} labels are proven by the update, the others a prior's"
        return LabelRecovery.of(counts, "bounds", note, certified=known == layer.batch)

    def least(self, observation: Observation, head: BiasedHead, seeds: Seeds) -> Tensor:
        """Return how many examples of each class (C,) there are at least. observation: as it was shared."""
        generator = seeds.generator("dummies")
        signed = can_be_negative(observation, head.head, self.dummies, generator)
        blur = blurred(observation, head) + CERTAIN * noise_in(observation, head)
        return shown(head.layer, head.link, signed=signed, blur=blur)


def can_be_negative(
    observation: Observation, head: Head, dummies: int, generator: torch.Generator
) -> bool:
    """Return whether features are seen below 0, on images and on values far beyond the domain's range."""
    inputs = [natural(observation, dummies, generator)]
    for amplitude in AMPLITUDES:
        drawn = torch.randn((dummies, *unit_shape(observation.domain)), generator=generator)
        inputs.append(observation.domain.from_unit(0.5 + amplitude * drawn))
    return any(bool((features_of(observation, head, some) < 0).any()) for some in inputs)


def noise_in(observation: Observation, head: BiasedHead) -> float:
    """Return the standard deviation of the noise on an entry of the gradient, known or seen.

    Softmax's slopes sum to 0 over the classes, so every column of the gradient does. What a column sums to is noise,
    whether the adversary was told of it or not.
    """
    layer = head.layer
    known = known_noise(observation, layer, observation.update.tensors[head.head.weight])
    least = 0.0 if known is None else float(known.sigma)
    if head.link.activation != "softmax":
        return least
    columns = torch.cat([layer.dweight.sum(0), layer.dbias.sum().unsqueeze(0)])
    seen = float(columns.square().mean().sqrt()) / math.sqrt(len(layer.dbias))
    return max(least, seen)


def blurred(observation: Observation, head: BiasedHead) -> float:
    """Return what rounding of the weights themselves leaves in a gradient that is read from their difference."""
    training = many_steps(observation)
    if isinstance(training, Inapplicable):
        return 0.0
    step = torch.finfo(observation.update.like.dtype).eps
    largest = float(head.layer.weight.abs().max())
    size = largest * step / abs(training.multiplier(observation.batch_size))
    return size * units(head.layer, head.shared)


def shown(layer: BiasedLayer, link: LossLink, *, signed: bool, blur: float = 0.0) -> Tensor:
    """Return at least how many examples of each class (C,) there are. signed: whether features can be negative.

    blur: the error of an entry of the gradient, beside its own rounding. With class weights w and a mean over
    divisors d, k_c w_c d_c / sum_i d(y_i) >= -db_c, and that sum is B d at least for the smallest d.
    """
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


def amplified(layer: BiasedLayer, link: LossLink) -> Tensor:
    """How many examples of each class (C,), were all as faint as the class's embedding; 0 to B."""
    answers = link.value(outputs(layer, embeddings(layer)) / link.temperature).diagonal()
    faint = (1 - answers).clamp_min(1 / layer.batch)
    return (-layer.batch * layer.dbias / link.scale / link.weights / faint).clamp(0, layer.batch)


def completed(seen: Tensor, batch: int, amplitude: Tensor) -> Tensor:
    """Counts (C,) of `batch` examples, at least `seen` (C,), the rest by the prior of these amplitudes (C,)."""
    left = batch - int(seen.sum())
    if left <= 0:
        return whole(seen.double() * batch / seen.sum(), batch)
    fraction = max(0, int((seen > 0).sum()) - 1) / max(1, len(seen) - 1)
    prior = torch.maximum(seen.double(), amplitude) ** (float(seen.sum()) / batch)
    prior = prior / prior[seen > 0].mean() if bool(seen.any()) else prior
    prior = torch.where(seen > 0, prior, fraction)
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
