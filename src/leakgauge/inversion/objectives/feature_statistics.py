"""Feature statistics as a term of the objective: what layers of a network are given, against what is known of it.

    mean over layers l of   (||mean_l(x) - mean*_l||^2 + ||std_l(x) - std*_l||^2) / (C_l v_l)

v_l is the layer's mean variance; moments are each channel's, over the batch and all places. mean* and std* were
measured on images that the adversary owns, at any network. Where the layers are BatchNorm's, and the moments
their running statistics, it is the prior of Yin et al. (`BatchStatistics`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call

from leakgauge.core import Domain, ModelError, Observation, Tensors
from leakgauge.federated.isolation.untouched import untouched
from leakgauge.federated.layers.statistics import BatchNorm, Moments, normalizers
from leakgauge.inversion.objectives.objective import Candidate, LeastSquares

EPSILON = 1e-5
"""A variance below it is none, at layers that have no such number of their own."""
CHUNK = 64
"""Images that are measured at once."""


@dataclass(frozen=True, eq=False)
class LayerMoments:
    """One model, and moments (C,) at layers of it, by name, that a batch is held to have there."""

    model: nn.Module
    targets: Mapping[str, Moments]


@dataclass(frozen=True, eq=False, repr=False)
class FeatureStatistics(LeastSquares):
    """How far a candidate's moments at layers are from those known; 1 where off by a standard deviation."""

    seen: tuple[LayerMoments, ...]
    domain: Domain

    collective: ClassVar[bool] = True

    @classmethod
    def measured(
        cls, network: nn.Module, images: Tensor, domain: Domain, layers: Sequence[str] | None = None
    ) -> Self:
        """Against the moments of images (N, *shape), in the domain's units, that the adversary owns.

        layers: names of modules, whose inputs (B, C, ...) are measured; by default every BatchNorm layer, or
        every convolution where there is none. The network is run as it is, and left so. Raises ModelError
        for names that it lacks or does not call, where there is nothing to choose, and for one value a channel.
        """
        names = _chosen(network, layers)
        parts = [layer_inputs(network, names, part) for part in torch.split(images, CHUNK)]
        idle = [name for name in names if not parts[0][name]]
        if idle:
            raise ModelError(
                "feature statistics",
                expected="layers that the network's forward calls",
                found=f"{idle} uncalled",
                remedy="name others",
            )
        targets = {}
        for name in names:
            calls = zip(*(part[name] for part in parts), strict=True)
            targets[name] = _together([_pooled(call) for call in calls], None)
        bare = [
            name for name, moments in targets.items() if not bool(moments.variance.isfinite().all())
        ]
        if bare:
            raise ModelError(
                "feature statistics",
                expected="at least two finite values of each channel",
                found=f"fewer at {bare[0]!r}, of {len(images)} images",
                remedy="give more images, or layers that see places",
            )
        return cls((LayerMoments(network, targets),), domain)

    def inapplicable(self, observation: Observation) -> str | None:
        if not (self.seen and all(seen.targets for seen in self.seen)):
            return "no statistics are known of the model's layers"
        return None

    def residuals(self, candidate: Candidate) -> Tensor:
        inputs = self.domain.from_unit(candidate.unit)
        found = [apart for seen in self.seen for apart in _residuals(seen, inputs)]
        residuals: Tensor = torch.cat(found) / len(found) ** 0.5
        return residuals

    def __repr__(self) -> str:
        return f"{type(self).__name__}({sum(len(seen.targets) for seen in self.seen)} layers)"


def layer_inputs(model: nn.Module, names: Sequence[str], inputs: Tensor) -> dict[str, list[Tensor]]:
    """What each of these layers is given in a forward of inputs (B, *shape), call by call; differentiable."""
    calls: dict[str, list[Tensor]] = {name: [] for name in names}

    def keep(name: str) -> Any:
        return lambda _, arguments: calls[name].append(arguments[0])

    hooks = [model.get_submodule(n).register_forward_pre_hook(keep(n)) for n in names]
    try:
        with untouched(model):
            functional_call(model, _state(model, inputs), (inputs.clone(),))
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _state(model: nn.Module, like: Tensor) -> Tensors:
    """Parameters, and buffers to write to, in the inputs' precision."""
    named = {n: p.detach() for n, p in model.named_parameters()}
    named |= {n: b.clone() for n, b in model.named_buffers()}
    return {n: t.to(like) if t.is_floating_point() else t for n, t in named.items()}


def _chosen(network: nn.Module, layers: Sequence[str] | None) -> list[str]:
    """The layers named, or chosen."""
    modules = dict(network.named_modules())
    if layers is None:
        convolutions = [n for n, m in modules.items() if isinstance(m, nn.modules.conv._ConvNd)]
        names = list(normalizers(network, training=False)) or convolutions
        expected, found = "a network with BatchNorm or convolutions", "neither"
    else:
        names = [name for name in layers if name in modules]
        unknown = [name for name in layers if name not in modules]
        expected, found = "names of the network's modules", f"{unknown or 'none'}"
    if not names or (layers is not None and len(names) < len(layers)):
        raise ModelError(
            "feature statistics", expected=expected, found=found, remedy="name layers that it has"
        )
    return names


def _pooled(parts: Sequence[Tensor]) -> Moments:
    """Moments of what a layer was given part by part, as if at once; a variance of one value is not a number."""
    total = sum(part.numel() // part.shape[1] for part in parts)
    each = [_sums(part.detach().double()) for part in parts]
    mean = torch.stack([first for first, _ in each]).sum(0) / total
    square = torch.stack([second for _, second in each]).sum(0) / total
    spread = (square - mean.square()).clamp_min(0)
    variance = spread * total / (total - 1) if total > 1 else spread * torch.nan
    return Moments(mean.to(parts[0]), variance.to(parts[0]))


def _sums(call: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of the values and of their squares, a channel."""
    every = [axis for axis in range(call.ndim) if axis != 1]
    return call.sum(every), call.square().sum(every)


def _residuals(seen: LayerMoments, inputs: Tensor) -> list[Tensor]:
    """One vector a layer: (2 C,), or (C,) where the batch gives it one value a channel, which has no deviation."""
    found = []
    for name, calls in layer_inputs(seen.model, list(seen.targets), inputs).items():
        layer, aim = seen.model.get_submodule(name), seen.targets[name]
        eps, momentum = (
            (layer.eps, layer.momentum) if isinstance(layer, BatchNorm) else (EPSILON, None)
        )
        own = _together([_moments(call) for call in calls], momentum)
        mean, variance = aim.mean.to(inputs), aim.variance.to(inputs) + eps
        apart = [own.mean - mean]
        if not _lone(calls[0]):
            # As BatchNorm sees it: below eps a variance is none, and its root has a slope.
            apart.append((own.variance + eps).sqrt() - variance.sqrt())
        found.append(torch.cat(apart) / (len(mean) * variance.mean()).sqrt())
    return found


def _lone(given: Tensor) -> bool:
    """Whether there is one value of each channel."""
    return given.numel() == given.shape[1]


def _moments(given: Tensor) -> Moments:
    """Of what a layer is given; one value varies by nothing."""
    if _lone(given):
        return Moments(given.flatten(), torch.zeros_like(given.flatten()))
    return Moments.of(given)


def _together(calls: list[Moments], momentum: float | None) -> Moments:
    """What running statistics remember of one forward in which a layer is called several times."""
    keep = 1.0 if momentum is None else 1 - momentum
    raw = [keep ** (len(calls) - 1 - i) for i in range(len(calls))]
    shares = [weight / sum(raw) for weight in raw]
    mean = torch.stack([s * c.mean for s, c in zip(shares, calls, strict=True)]).sum(0)
    variance = torch.stack([s * c.variance for s, c in zip(shares, calls, strict=True)]).sum(0)
    return Moments(mean, variance)
