"""Batch statistics as a term of the objective: what BatchNorm layers are given, against what is known of it.

    mean over layers l of   (||mean_l(x) - mean*_l||^2 + ||std_l(x) - std*_l||^2) / (C_l v_l)

v_l is the layer's mean variance. After Yin et al.: See through Gradients, CVPR 2021, equation 7, who take
mean* and std* from the model's running statistics (`BatchStatistics.prior`); the private batch's own (`of`), where
they are shared, are what Huang et al., NeurIPS 2021, section 3, call BN exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from leakgauge.core import Domain, Observation, Tensors, trainable
from leakgauge.federated.local_steps import moved
from leakgauge.federated.rounds import Rounds, parted
from leakgauge.federated.statistics import (
    Moments,
    batch_statistics,
    middle,
    normalizers,
    running,
    steps_between,
)
from leakgauge.inversion.objective import Candidate, LeastSquares


@dataclass(frozen=True, eq=False)
class Seen:
    """One model, and moments (C,) at its BatchNorm layers, by name, that a batch is held to have there."""

    model: nn.Module
    targets: Mapping[str, Moments]

    def moments(self, inputs: Tensor) -> dict[str, Moments]:
        """Those of inputs (B, *shape); the model is left as it was."""
        layers = {name: self.model.get_submodule(name) for name in self.targets}
        calls: dict[str, list[Moments]] = {name: [] for name in layers}

        def keep(name: str) -> Any:
            return lambda _, arguments: calls[name].append(Moments.of(arguments[0]))

        hooks = [layer.register_forward_pre_hook(keep(name)) for name, layer in layers.items()]
        try:
            functional_call(self.model, self._state(inputs), (inputs,))
        finally:
            for hook in hooks:
                hook.remove()
        return {name: _together(calls[name], layer.momentum) for name, layer in layers.items()}  # type: ignore[arg-type]

    def _state(self, like: Tensor) -> Tensors:
        """Parameters, and buffers to write to, in the inputs' precision."""
        named = {n: p.detach() for n, p in self.model.named_parameters()}
        named |= {n: b.clone() for n, b in self.model.named_buffers()}
        return {n: t.to(like) if t.is_floating_point() else t for n, t in named.items()}


@dataclass(frozen=True, eq=False, repr=False)
class BatchStatistics(LeastSquares):
    """How far a candidate's moments at BatchNorm layers are from those known; 1 where off by a standard deviation."""

    seen: tuple[Seen, ...]
    domain: Domain
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
        return cls((Seen(model, running(model)),), observation.domain, exact=False)

    def inapplicable(self, observation: Observation) -> str | None:
        if self.seen and all(seen.targets for seen in self.seen):
            return None
        return "no statistics are known of the model's BatchNorm layers"

    def residuals(self, candidate: Candidate) -> Tensor:
        inputs = self.domain.from_unit(candidate.unit)
        found = [apart for seen in self.seen for apart in _residuals(seen, inputs)]
        residuals: Tensor = torch.cat(found) / len(found) ** 0.5
        return residuals

    def __repr__(self) -> str:
        return f"BatchStatistics({sum(len(seen.targets) for seen in self.seen)} layers)"


def _seen(model: nn.Module, after: Tensors, update: Tensors | None) -> Seen:
    """The private batch's moments, at the model as it was sent, or on its way along a weight difference."""
    targets = batch_statistics(model, after)
    if update is not None and targets:
        name, layer = next((n, m) for n, m in normalizers(model).items() if n in targets)
        steps = steps_between(name, layer, after)
        if steps > 1:
            model = moved(model, update, middle(layer.momentum, steps))
    return Seen(model, targets)


def _residuals(seen: Seen, inputs: Tensor) -> list[Tensor]:
    """One vector (2 C,) a layer."""
    found = []
    for name, own in seen.moments(inputs).items():
        aim, eps = seen.targets[name], float(seen.model.get_submodule(name).eps)  # type: ignore[arg-type]
        mean, variance = aim.mean.to(inputs), aim.variance.to(inputs) + eps
        # As BatchNorm sees it: below eps a variance is none, and its root has a slope.
        apart = torch.cat([own.mean - mean, (own.variance + eps).sqrt() - variance.sqrt()])
        found.append(apart / (len(mean) * variance.mean()).sqrt())
    return found


def _together(calls: list[Moments], momentum: float | None) -> Moments:
    """What running statistics remember of one forward in which a layer is called several times."""
    keep = 1.0 if momentum is None else 1 - momentum
    raw = [keep ** (len(calls) - 1 - i) for i in range(len(calls))]
    shares = [weight / sum(raw) for weight in raw]
    mean = torch.stack([s * c.mean for s, c in zip(shares, calls, strict=True)]).sum(0)
    variance = torch.stack([s * c.variance for s, c in zip(shares, calls, strict=True)]).sum(0)
    return Moments(mean, variance)


__all__ = ["BatchStatistics", "Seen"]
