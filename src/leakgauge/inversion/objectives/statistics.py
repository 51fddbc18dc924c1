"""Batch statistics as a term: feature statistics of the BatchNorm layers."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from leakgauge.core import Observation, Tensors, trainable
from leakgauge.federated.layers.statistics import (
    batch_statistics,
    middle,
    normalizers,
    running_moments,
    steps_between,
)
from leakgauge.federated.training.local_steps import shift_model
from leakgauge.federated.training.rounds import Rounds, split_rounds
from leakgauge.inversion.objectives.feature_statistics import FeatureStatistics, LayerMoments


@dataclass(frozen=True, eq=False, repr=False)
class BatchStatistics(FeatureStatistics):
    """Prior: BatchNorm layers should see the known means and deviations.

    The value is that of `FeatureStatistics` at the model's BatchNorm layers. Two sources of the
    known moments are common:

    - `prior`: the running statistics of the model, or of a proxy. The observed model itself reveals
      these.
    - `of`: the private batch's own moments, if the threat model grants them. Huang et al. call this
      case "BN exact".

    Args:
        moments: The models, each with the known moments of its BatchNorm layers.
        domain: The domain of the examples, which maps unit coordinates to inputs.
        exact: Whether the moments are exactly those of the private batch. If not, the weight should
            vanish as the search ends.

    References:
        Yin, Mallya, Vahdat, Alvarez, Kautz, Molchanov. See through Gradients: Image Batch Recovery
        via GradInversion. CVPR 2021, equation 7. arXiv:2104.07586.

        Huang, Gupta, Song, Li, Arora. Evaluating Gradient Inversion Attacks and Defenses in
        Federated Learning. NeurIPS 2021, section 3. arXiv:2112.00059.

    Example:
        >>> import leakgauge as lg
        >>> from torch import nn
        >>> from leakgauge.inversion import BatchStatistics, Cosine
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 10))
        >>> observation = lg.examples.observation(batch_size=4, model=model)
        >>> Cosine() + 0.1 * BatchStatistics.prior(observation)
        Cosine() + 0.1 * BatchStatistics(1 layers)
    """

    exact: bool = True

    @classmethod
    def of(cls, observation: Observation) -> BatchStatistics:
        """Return the term for the private batch's own moments, from granted running statistics.

        Over several rounds there is one set of moments for each round. The term is `exact` if each
        round takes one local step. With several steps, the moments are compared at the model where,
        on average, they were taken. This is an estimate.

        Args:
            observation: The observation. Without granted statistics, the term is not applicable.
        """
        statistics = observation.knowledge.statistics
        if statistics is None:
            return cls((), observation.domain)
        model, training = observation.model, observation.training
        later = training.models if isinstance(training, Rounds) else ()
        updates = split_rounds(observation.update.tensors, list(trainable(model)))
        names = [name for name in statistics if "@" not in name]
        rounds = zip((model, *later), updates, split_rounds(statistics, names), strict=True)
        delta = observation.update.kind == "delta"
        moments = tuple(
            _batch_moments(held, after, update if delta else None) for held, update, after in rounds
        )
        # With several steps, `_batch_moments` returns another model than the one that was sent.
        exact = all(one.model is held for one, held in zip(moments, (model, *later), strict=True))
        return cls(moments, observation.domain, exact)

    @classmethod
    def prior(cls, observation: Observation, proxy: nn.Module | None = None) -> BatchStatistics:
        """Return the term for the running statistics of the observed model or of a proxy.

        The model may be in train mode or in eval mode.

        Args:
            observation: The observation.
            proxy: A model that takes the same inputs, in the domain's units, and was trained on
                similar data. The default is the observed model.
        """
        model = observation.model if proxy is None else proxy
        return cls((LayerMoments(model, running_moments(model)),), observation.domain, exact=False)

    def inapplicable(self, observation: Observation) -> str | None:
        if self.moments and all(one.targets for one in self.moments):
            return None
        return "batch statistics need known moments of BatchNorm layers, and there are none"


def _batch_moments(model: nn.Module, after: Tensors, update: Tensors | None) -> LayerMoments:
    """Return the private batch's moments, and the model at which they were taken.

    After several steps, that is a model between the one that was sent and the new one.
    """
    targets = batch_statistics(model, after)
    if update is not None and targets:
        name, layer = next((n, m) for n, m in normalizers(model).items() if n in targets)
        steps = steps_between(name, layer, after)
        if steps > 1:
            model = shift_model(model, update, middle(layer.momentum, steps))
    return LayerMoments(model, targets)
