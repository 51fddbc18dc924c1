"""Features of each example, read from the update by other means, as a term of the objective."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from leakgauge.core import Domain, Observation, copied
from leakgauge.federated.isolation.untouched import untouched
from leakgauge.inversion.objectives.objective import Candidate, LeastSquares
from leakgauge.output.head import features_of

_TOGETHER = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)


@dataclass(frozen=True, eq=False)
class FeatureExtractor:
    """The observed model up to the input of a layer: unit (B, *shape) to features (B, d).

    pooled: features of a convolution are averaged over its places, as its gradient sees them.
    """

    model: nn.Module
    domain: Domain
    layer: str
    pooled: bool = False

    @classmethod
    def of(cls, observation: Observation, layer: str, *, pooled: bool = False) -> FeatureExtractor:
        """Return the network of an observed model. `layer` names a module that is called once."""
        return cls(copied(observation.model), observation.domain, layer, pooled)

    def __call__(self, unit: Tensor) -> Tensor:
        state = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        cast = {n: t.detach().to(unit) if t.is_floating_point() else t for n, t in state.items()}
        seen: list[Tensor] = []
        hook = self.model.get_submodule(self.layer).register_forward_pre_hook(
            lambda _, arguments: seen.append(arguments[0])
        )
        try:
            with untouched(self.model):
                functional_call(self.model, cast, (self.domain.from_unit(unit).clone(),))
        finally:
            hook.remove()
        if self.pooled:
            return features_of(self.model.get_submodule(self.layer), seen[0])
        return seen[0].flatten(1)


def entangled(observation: Observation) -> str | None:
    """Why the features of an example are not a function of that example alone; None where they are."""
    if any(isinstance(m, _TOGETHER) and m.training for m in observation.model.modules()):
        return "features of one example depend on others, or on chance, in train mode"
    return None


@dataclass(frozen=True, eq=False, repr=False)
class FeatureMatch(LeastSquares):
    """Mean over examples of || trust_i (h(x_i) - h_i) ||^2.

    features (B, d): the h_i, in the order of the labels. trust (B,): one over the scale on which each is
    known and differs from the others; 0 where it is not known.
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
        """Return the term for features (B, d). error (B,): relative, inf if they are not known. pooled: as Headless."""
        known = error.isfinite()
        spread = features[known] - features[known].mean(0)
        # One example alone differs from none: its own size is the scale.
        scale = (spread if len(spread) > 1 else features[known]).square().sum(1).mean().sqrt()
        size = features.norm(dim=1)
        # Examples that are one image differ by nothing: rounding is the least scale.
        noise = size * error.nan_to_num(posinf=0.0).clamp_min(1e-6)
        trust = torch.where(known & (size > 0), 1 / (scale + noise), 0.0)
        return cls(FeatureExtractor.of(observation, layer, pooled=pooled), features, trust)

    @classmethod
    def of_one(cls, observation: Observation, layer: str, features: Tensor) -> FeatureMatch:
        """Return the term for one example's features (1, d): 1 for a gray one."""
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
        apart = (self.network(unit) - aim) * trust[:, None]
        residuals: Tensor = apart.flatten() / len(unit) ** 0.5
        return residuals

    def __repr__(self) -> str:
        return f"FeatureMatch({int((self.trust > 0).sum())} of {len(self.trust)})"
