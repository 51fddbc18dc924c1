"""Lower bounds of label counts that the gradient of a trained network proves, completed by a prior."""

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
    known_steps,
    round_counts,
)
from leakgauge.analytic.label_recovery.ilrg import embeddings, logits_of
from leakgauge.analytic.label_recovery.stand_ins import features_of, natural
from leakgauge.analytic.last_layer import known_noise, unit_ratio
from leakgauge.analytic.loss_link import LossLink
from leakgauge.core import Inapplicable, Observation, Seeds, unit_shape
from leakgauge.core.ranges import Count
from leakgauge.federated.training.calibration import one_gradient
from leakgauge.output import Head

FAINT = 1e-6
"""A negative entry below this fraction of the largest entry may be rounding."""
CERTAIN = 6.0
"""Entries below this number of standard deviations of the noise prove nothing."""
AMPLITUDES = (1.0, 10.0, 100.0)
"""Standard deviations, in unit coordinates, of the noise that shows whether features can be negative."""


@dataclass(frozen=True, kw_only=True)
class Bounds(LabelMethod):
    r"""Recover label counts from lower bounds that the gradient proves, completed by a prior.

    Use it at any batch size on trained, confident networks. Targets must be 0 and 1, and the
    gradient of the last layer's bias is needed. An example that the network classifies with
    confidence leaves almost no gradient, so equations for the counts cannot be solved. Two facts
    remain certain:

    - :math:`k_c \ge -B \, db_c`, since outputs are at least 0.
    - If features are never negative, a negative entry in row c of dW proves that class c is
      present.

    Here k_c is the number of examples of class c, and B the batch size. The last layer has the
    gradients dW (C, d) and db (C,). The bounds s_c sum to S. The rest of the batch goes to the
    classes in proportion to a prior:

    - A class with a bound above 0 gets :math:`m_c^{S/B}`, relative to their mean. The estimate
      :math:`m_c = -B \, db_c / (1 - p_{cc})` assumes that all its examples are as confident as its
      embedding (`Ilrg`). It improves as more of the batch is proven.
    - Any other class gets (n - 1) / (C - 1), with n the number of classes that have a bound above
      0. So if n is 1, that class takes the whole rest. If n is close to C, the other classes get
      about as much as these n. A class that would get less than half an example gets none.

    Args:
        dummies: Number of inputs that test whether features can be negative, at least 1. Default
            ours.

    References:
        Ours.

    Example:
        >>> import leakgauge as lg
        >>> from leakgauge.analytic.label_recovery import Bounds
        >>> observation = lg.examples.observation(batch_size=6, threat=lg.Server())
        >>> found = Bounds()(observation, seeds=lg.Seeds(0))
        >>> found.labels, found.certified
        (tensor([0, 1, 2, 3, 4, 5]), True)
    """

    dummies: Count = 16

    def prepare(self, observation: Observation) -> Reading | Inapplicable:
        found = biased_head_of(observation, one_hot=True, uneven=True)
        return found if isinstance(found, Inapplicable) else partial(self.read, observation, found)

    def read(self, observation: Observation, head: BiasedHead, seeds: Seeds) -> LabelRecovery:
        """Return the counts that the head's gradient bounds, completed by a prior."""
        layer = head.layer
        seen = self.least(observation, head, seeds)
        counts = complete_counts(seen, layer.batch, amplified_counts(layer, head.link))
        known = min(int(seen.sum()), layer.batch)
        if not one_gradient(observation):
            return LabelRecovery.of(counts, "bounds", "the update only approximates one gradient")
        note = f"{known} of {layer.batch} labels are proven by the update; a prior fills the others"
        return LabelRecovery.of(counts, "bounds", note, certified=known == layer.batch)

    def least(self, observation: Observation, head: BiasedHead, seeds: Seeds) -> Tensor:
        """Return the proven least number of examples of each class (C,).

        `observation` is the original, not a mean gradient.
        """
        generator = seeds.generator("dummies")
        signed = can_be_negative(observation, head.head, self.dummies, generator)
        blur = weight_rounding(observation, head) + CERTAIN * noise_level(observation, head)
        return proven_counts(head.layer, head.link, signed=signed, blur=blur)


def can_be_negative(
    observation: Observation, head: Head, dummies: int, generator: torch.Generator
) -> bool:
    """Return whether any feature is below 0, for natural images and for noise far outside the domain's range."""
    inputs = [natural(observation, dummies, generator)]
    for amplitude in AMPLITUDES:
        drawn = torch.randn((dummies, *unit_shape(observation.domain)), generator=generator)
        inputs.append(observation.domain.from_unit(0.5 + amplitude * drawn))
    return any(bool((features_of(observation, head, some) < 0).any()) for some in inputs)


def noise_level(observation: Observation, head: BiasedHead) -> float:
    """Return the standard deviation of the noise on an entry of the gradient, known or estimated.

    Softmax's slopes sum to 0 over the classes, so every column of the gradient does too. The sum of
    a column is therefore noise. This also measures noise of a defense that the adversary does not
    know.
    """
    layer = head.layer
    known = known_noise(observation, layer, observation.update.tensors[head.head.weight])
    least = 0.0 if known is None else float(known.sigma)
    if head.link.activation != "softmax":
        return least
    columns = torch.cat([layer.dweight.sum(0), layer.dbias.sum().unsqueeze(0)])
    seen = float(columns.square().mean().sqrt()) / math.sqrt(len(layer.dbias))
    return max(least, seen)


def weight_rounding(observation: Observation, head: BiasedHead) -> float:
    """Return the error of a gradient's entry that comes from rounding of the weights, or 0 for a shared gradient.

    This error arises if the gradient is computed from a difference of weights.
    """
    training = known_steps(observation)
    if isinstance(training, Inapplicable):
        return 0.0
    step = torch.finfo(observation.update.like.dtype).eps
    largest = float(head.layer.weight.abs().max())
    size = largest * step / abs(training.multiplier(observation.batch_size))
    return size * unit_ratio(head.layer, head.shared)


def proven_counts(layer: BiasedLayer, link: LossLink, *, signed: bool, blur: float = 0.0) -> Tensor:
    r"""Return the proven least number of examples of each class (C,).

    With class weights w and a mean over divisors d, :math:`k_c w_c d_c / \sum_i d_{y_i} \ge -db_c`.
    The sum is at least B times the smallest divisor.

    Args:
        layer: The last layer with its gradients.
        link: The loss.
        signed: Whether features can be negative.
        blur: Error of an entry of the gradient, besides its own rounding.
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


def amplified_counts(layer: BiasedLayer, link: LossLink) -> Tensor:
    """Return counts (C,), from 0 to B, that assume all examples to be as confident as their class's embedding."""
    answers = link.value(logits_of(layer, embeddings(layer)) / link.temperature).diagonal()
    faint = (1 - answers).clamp_min(1 / layer.batch)
    return (-layer.batch * layer.dbias / link.scale / link.weights / faint).clamp(0, layer.batch)


def complete_counts(seen: Tensor, batch: int, amplitude: Tensor) -> Tensor:
    """Return counts (C,) with sum `batch` and at least `seen` (C,). A prior of these amplitudes (C,) fills the rest."""
    left = batch - int(seen.sum())
    if left <= 0:
        return round_counts(seen.double() * batch / seen.sum(), batch)
    fraction = max(0, int((seen > 0).sum()) - 1) / max(1, len(seen) - 1)
    prior = torch.maximum(seen.double(), amplitude) ** (float(seen.sum()) / batch)
    prior = prior / prior[seen > 0].mean() if bool(seen.any()) else prior
    prior = torch.where(seen > 0, prior, fraction)
    if not bool(prior.any()):
        prior = torch.ones_like(prior)
    counts = _fill(seen.double(), prior, batch)
    if bool(seen.any()):
        # A class that is more likely absent than present gets no example. Otherwise many of these
        # classes together would take the whole batch.
        prior[(seen == 0) & (counts < 0.5)] = 0
        counts = _fill(seen.double(), prior, batch)
    return seen + round_counts(counts - seen, left)


def _fill(seen: Tensor, prior: Tensor, batch: int) -> Tensor:
    """Return max(seen, level * prior) (C,), with the level at which the sum is `batch`."""
    low, high = 0.0, batch / float(prior[prior > 0].min())
    while high - low > 1e-9 * high:
        level = (low + high) / 2
        if float(torch.maximum(seen, level * prior).sum()) < batch:
            low = level
        else:
            high = level
    return torch.maximum(seen, high * prior)
