"""Batch statistics as a term of the objective: what BatchNorm layers are given, against what is known of it.

They are feature statistics (feature_statistics.py) whose layers are BatchNorm's. After Yin et al.: See through
Gradients, CVPR 2021, equation 7, who take mean* and std* from the model's running statistics (`BatchStatistics.prior`);
the private batch's own (`of`), where they are shared, are what Huang et al., NeurIPS 2021, section 3, call BN exact.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from leakgauge.core import Observation, Tensors, trainable
from leakgauge.federated.layers.statistics import (
    batch_statistics,
    middle,
    normalizers,
    running,
    steps_between,
)
from leakgauge.federated.training.local_steps import moved
from leakgauge.federated.training.rounds import Rounds, parted
from leakgauge.inversion.objectives.feature_statistics import FeatureStatistics, LayerMoments


@dataclass(frozen=True, eq=False, repr=False)
class BatchStatistics(FeatureStatistics):
    """How far a candidate's moments at BatchNorm layers are from those known; 1 where off by a standard deviation."""

    exact: bool = True

    @classmethod
    def of(cls, observation: Observation) -> BatchStatistics:
        """Against the private batch's own, from granted running statistics; of several rounds, each one's.

        `exact` for one step. Of several, they are compared at the model where, on average, they were taken:
        an estimate, whose weight should vanish as a search ends.
        """
        statistics = observation.knowledge.statistics
        if statistics is None:
            return cls((), observation.domain)
        model, training = observation.model, observation.training
        later = training.models if isinstance(training, Rounds) else ()
        updates = parted(observation.update.tensors, list(trainable(model)))
        names = [name for name in statistics if "@" not in name]
        rounds = zip((model, *later), updates, parted(statistics, names), strict=True)
        delta = observation.update.kind == "delta"
        seen = tuple(
            _seen(held, after, update if delta else None) for held, update, after in rounds
        )
        # A model moved on the way is where several steps were seen as one.
        exact = all(one.model is held for one, held in zip(seen, (model, *later), strict=True))
        return cls(seen, observation.domain, exact)

    @classmethod
    def prior(cls, observation: Observation, proxy: nn.Module | None = None) -> BatchStatistics:
        """Against the running statistics of the observed model itself, in either mode, or of a proxy.

        A proxy takes the same inputs, in the domain's units, and was trained on data like the batch.
        """
        model = observation.model if proxy is None else proxy
        return cls((LayerMoments(model, running(model)),), observation.domain, exact=False)

    def inapplicable(self, observation: Observation) -> str | None:
        if self.seen and all(seen.targets for seen in self.seen):
            return None
        return "no statistics are known of the model's BatchNorm layers"


def _seen(model: nn.Module, after: Tensors, update: Tensors | None) -> LayerMoments:
    """The private batch's moments, at the model as it was sent, or on its way along a weight difference."""
    targets = batch_statistics(model, after)
    if update is not None and targets:
        name, layer = next((n, m) for n, m in normalizers(model).items() if n in targets)
        steps = steps_between(name, layer, after)
        if steps > 1:
            model = moved(model, update, middle(layer.momentum, steps))
    return LayerMoments(model, targets)
