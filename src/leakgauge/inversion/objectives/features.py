"""Known features of each example as a term of the objective."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from leakgauge.core import Domain, Observation, deep_copy
from leakgauge.federated.isolation.untouched import untouched
from leakgauge.inversion.objectives.objective import Candidate, LeastSquares
from leakgauge.output.head import features_of

_MIXING = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
"""Layers whose output for one example, in train mode, depends on other examples or on random draws."""


@dataclass(frozen=True, eq=False)
class FeatureExtractor:
    r"""The observed model up to the input of one layer: unit (B, \*shape) to features (B, d).

    Args:
        model: The model.
        domain: The domain of the examples.
        layer: Name of the layer whose input is the features.
        pooled: Whether a convolution's features are averaged over its places, as its gradient
            averages them.
    """

    model: nn.Module
    domain: Domain
    layer: str
    pooled: bool = False

    @classmethod
    def of(cls, observation: Observation, layer: str, *, pooled: bool = False) -> FeatureExtractor:
        """Return the extractor of an observed model. `layer` names a module that is called once."""
        return cls(deep_copy(observation.model), observation.domain, layer, pooled)

    def __call__(self, unit: Tensor) -> Tensor:
        state = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        cast = {n: t.detach().to(unit) if t.is_floating_point() else t for n, t in state.items()}
        recorded: list[Tensor] = []
        hook = self.model.get_submodule(self.layer).register_forward_pre_hook(
            lambda _, arguments: recorded.append(arguments[0])
        )
        try:
            with untouched(self.model):
                functional_call(self.model, cast, (self.domain.from_unit(unit).clone(),))
        finally:
            hook.remove()
        if self.pooled:
            return features_of(self.model.get_submodule(self.layer), recorded[0])
        return recorded[0].flatten(1)


def entangled(observation: Observation) -> str | None:
    """Return why an example's features depend on more than that example, or None if they do not."""
    if any(isinstance(m, _MIXING) and m.training for m in observation.model.modules()):
        return (
            "the features of one example depend on other examples or on random draws: "
            "the model has BatchNorm or dropout in train mode"
        )
    return None


@dataclass(frozen=True, eq=False, repr=False)
class FeatureMatch(LeastSquares):
    r"""Squared distance of each example's features from features that were recovered before.

    .. math::

        \frac{1}{B} \sum_{i=1}^{B} \left\| t_i \, (h(x_i) - h_i) \right\|^2

    Here :math:`h(x_i)` are the features of example :math:`i` at one layer, :math:`h_i` the known
    ones, and :math:`t_i` the trust in them. Use it if an attack in closed form recovers the inputs
    of a late layer. Then each example can be searched for separately. Build it with `of` or
    `of_one`.

    Args:
        network: The observed model up to the layer.
        features: The known features (B, d), in the order of the labels.
        trust: Weights (B,). A weight is 1 over the sum of two lengths: the spread of the known
            features over the batch, and the error of this example's features. It is 0 if they are
            not known.

    Example:
        >>> import leakgauge as lg
        >>> import torch
        >>> from leakgauge.inversion import FeatureMatch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
        >>> observation = lg.examples.observation(batch_size=2, model=model)
        >>> features = model[:3](lg.examples.batch(2).inputs).detach()
        >>> FeatureMatch.of(observation, "3", features, error=torch.tensor([0.0, torch.inf]))
        FeatureMatch(1 of 2)
    """

    network: FeatureExtractor
    features: Tensor
    trust: Tensor

    local: ClassVar[bool] = True

    @classmethod
    def of(
        cls,
        observation: Observation,
        layer: str,
        features: Tensor,
        error: Tensor,
        *,
        pooled: bool = False,
    ) -> FeatureMatch:
        """Return the term for the features of a whole batch.

        Args:
            observation: The observation.
            layer: Name of the module whose input is the features. It must be called once.
            features: Features (B, d).
            error: Relative error (B,) of the features, or infinity if they are not known.
            pooled: Whether a convolution's features are averaged over its places.
        """
        known = error.isfinite()
        spread = features[known] - features[known].mean(0)
        # One example alone has no spread, so the scale is the norm of its features.
        scale = (spread if len(spread) > 1 else features[known]).square().sum(1).mean().sqrt()
        size = features.norm(dim=1)
        # Equal images have no spread, so the scale is at least the rounding error.
        noise = size * error.nan_to_num(posinf=0.0).clamp_min(1e-6)
        trust = torch.where(known & (size > 0), 1 / (scale + noise), 0.0)
        return cls(FeatureExtractor.of(observation, layer, pooled=pooled), features, trust)

    @classmethod
    def of_one(cls, observation: Observation, layer: str, features: Tensor) -> FeatureMatch:
        """Return the term for one example's features (1, d). Its value is 1 at a uniform gray example."""
        network, like = FeatureExtractor.of(observation, layer), observation.update.like
        features = features.to(like)
        with torch.no_grad():
            gray = network(torch.full((1, *observation.domain.shape), 0.5).to(like))
        trust = 1 / (features - gray).norm(dim=1).clamp_min(torch.finfo(like.dtype).tiny)
        return cls(network, features, trust)

    def inapplicable(self, observation: Observation) -> str | None:
        return entangled(observation)

    def residuals(self, candidate: Candidate) -> Tensor:
        unit = candidate.unit
        aim, trust = (t.to(unit)[candidate.which] for t in (self.features, self.trust))
        gaps = (self.network(unit) - aim) * trust[:, None]
        residuals: Tensor = gaps.flatten() / len(unit) ** 0.5
        return residuals

    def __repr__(self) -> str:
        return f"FeatureMatch({int((self.trust > 0).sum())} of {len(self.trust)})"
