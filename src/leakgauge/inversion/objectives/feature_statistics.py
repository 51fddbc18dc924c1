"""Feature statistics as a term: moments of a network's layers on the candidate, against known moments."""

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
"""Added to the variance at layers that have no epsilon of their own."""
CHUNK = 64
"""Number of images in one forward pass of the measurement."""


@dataclass(frozen=True, eq=False)
class LayerMoments:
    """One model, and the moments that the batch should have at some of its layers.

    Args:
        model: The network.
        targets: Known moments of each layer's input, each (C,), by the layer's name.
    """

    model: nn.Module
    targets: Mapping[str, Moments]


@dataclass(frozen=True, eq=False, repr=False)
class FeatureStatistics(LeastSquares):
    r"""Prior: layers should see the means and deviations that were measured on other images.

    .. math::

        \frac{1}{L} \sum_{l=1}^{L}
        \frac{\| \mu_l(x) - \mu^*_l \|^2 + \| \sigma_l(x) - \sigma^*_l \|^2}{C_l \, v_l}

    Layer :math:`l` of :math:`L` layers has an input of :math:`C_l` channels. Their means and
    standard deviations over the batch and all places are :math:`\mu_l(x)` and :math:`\sigma_l(x)`.
    The known ones are :math:`\mu^*_l` and :math:`\sigma^*_l`, and :math:`v_l` is the mean of the
    known variances. The value is 1 if the means are off by one standard deviation.

    Use it when the adversary has public images and some trained network. With BatchNorm layers and
    their running statistics it is the prior of GradInversion, see `BatchStatistics`. Build it with
    `measured`.

    Args:
        moments: The models, each with the known moments of its layers.
        domain: The domain of the examples, which maps unit coordinates to inputs.

    References:
        Yin, Mallya, Vahdat, Alvarez, Kautz, Molchanov. See through Gradients: Image Batch Recovery
        via GradInversion. CVPR 2021, equation 7. arXiv:2104.07586. Other layers than BatchNorm are
        ours.

    Example:
        >>> import leakgauge as lg
        >>> from torch import nn
        >>> from leakgauge.inversion import FeatureStatistics
        >>> network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
        >>> public = lg.examples.batch(16).inputs
        >>> FeatureStatistics.measured(network, public, lg.examples.client().domain)
        FeatureStatistics(2 layers)
    """

    moments: tuple[LayerMoments, ...]
    domain: Domain

    collective: ClassVar[bool] = True

    @classmethod
    def measured(
        cls, network: nn.Module, images: Tensor, domain: Domain, layers: Sequence[str] | None = None
    ) -> Self:
        r"""Return the term for moments that are measured on the adversary's own images.

        The network runs in its present mode, and its buffers are left unchanged.

        Args:
            network: The network whose layers are measured.
            images: Images (N, \*shape) in the domain's units.
            domain: The domain of the images.
            layers: Names of modules. The input (B, C, ...) of each is measured. The default is
                every BatchNorm layer, or every convolution if there is no BatchNorm.

        Raises:
            ModelError: The network lacks a named layer, or does not call it. It has no layer to
                choose. A channel has fewer than two finite values.
        """
        names = _choose_layers(network, layers)
        parts = [layer_inputs(network, names, part) for part in torch.split(images, CHUNK)]
        idle = [name for name in names if not parts[0][name]]
        if idle:
            raise ModelError(
                "feature statistics",
                expected="layers that the network calls in its forward pass",
                found=f"{idle}, which it does not call",
                remedy="name other layers",
            )
        targets = {}
        for name in names:
            calls = zip(*(part[name] for part in parts), strict=True)
            targets[name] = _combine_calls([_pool_moments(call) for call in calls], None)
        bare = [
            name for name, moments in targets.items() if not bool(moments.variance.isfinite().all())
        ]
        if bare:
            raise ModelError(
                "feature statistics",
                expected="at least two finite values for each channel",
                found=f"fewer at layer {bare[0]!r}, from {len(images)} images",
                remedy="give more images, or name layers whose channels have several places",
            )
        return cls((LayerMoments(network, targets),), domain)

    def inapplicable(self, observation: Observation) -> str | None:
        if not (self.moments and all(one.targets for one in self.moments)):
            return "feature statistics need known moments of at least one layer, and there are none"
        return None

    def residuals(self, candidate: Candidate) -> Tensor:
        inputs = self.domain.from_unit(candidate.unit)
        found = [gaps for one in self.moments for gaps in _residuals(one, inputs)]
        residuals: Tensor = torch.cat(found) / len(found) ** 0.5
        return residuals

    def __repr__(self) -> str:
        return f"{type(self).__name__}({sum(len(one.targets) for one in self.moments)} layers)"


def layer_inputs(model: nn.Module, names: Sequence[str], inputs: Tensor) -> dict[str, list[Tensor]]:
    """Return what each named layer reads in a forward pass, one tensor for each call.

    The inputs are (B, C, ...). The result is differentiable.
    """
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
    """Return the parameters, and copies of the buffers that a forward pass may write to, in the inputs' precision."""
    named = {n: p.detach() for n, p in model.named_parameters()}
    named |= {n: b.clone() for n, b in model.named_buffers()}
    return {n: t.to(like) if t.is_floating_point() else t for n, t in named.items()}


def _choose_layers(network: nn.Module, layers: Sequence[str] | None) -> list[str]:
    """Return the names of the layers to measure: those given, or the default ones."""
    modules = dict(network.named_modules())
    if layers is None:
        convolutions = [n for n, m in modules.items() if isinstance(m, nn.modules.conv._ConvNd)]
        names = list(normalizers(network, training=False)) or convolutions
        expected, found = "a network with BatchNorm or convolution layers", "neither"
    else:
        names = [name for name in layers if name in modules]
        unknown = [name for name in layers if name not in modules]
        expected, found = "names of the network's modules", f"{unknown or 'no names'}"
    if not names or (layers is not None and len(names) < len(layers)):
        raise ModelError(
            "feature statistics",
            expected=expected,
            found=found,
            remedy="name layers that the network has",
        )
    return names


def _pool_moments(parts: Sequence[Tensor]) -> Moments:
    """Return the moments of a layer's inputs from all parts together. The variance of one single value is NaN."""
    total = sum(part.numel() // part.shape[1] for part in parts)
    each = [_sums(part.detach().double()) for part in parts]
    mean = torch.stack([first for first, _ in each]).sum(0) / total
    square = torch.stack([second for _, second in each]).sum(0) / total
    spread = (square - mean.square()).clamp_min(0)
    variance = spread * total / (total - 1) if total > 1 else spread * torch.nan
    return Moments(mean.to(parts[0]), variance.to(parts[0]))


def _sums(call: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sums of the values and of their squares, for each channel."""
    every = [axis for axis in range(call.ndim) if axis != 1]
    return call.sum(every), call.square().sum(every)


def _residuals(known: LayerMoments, inputs: Tensor) -> list[Tensor]:
    """Return one vector of residuals for each layer: (2 C,), or (C,) if each channel has only one value."""
    found = []
    for name, calls in layer_inputs(known.model, list(known.targets), inputs).items():
        layer, aim = known.model.get_submodule(name), known.targets[name]
        eps, momentum = (
            (layer.eps, layer.momentum) if isinstance(layer, BatchNorm) else (EPSILON, None)
        )
        own = _combine_calls([_moments(call) for call in calls], momentum)
        mean, variance = aim.mean.to(inputs), aim.variance.to(inputs) + eps
        gaps = [own.mean - mean]
        if not _has_one_value(calls[0]):
            # BatchNorm adds eps in the same way. It also gives the root a finite slope at 0.
            gaps.append((own.variance + eps).sqrt() - variance.sqrt())
        found.append(torch.cat(gaps) / (len(mean) * variance.mean()).sqrt())
    return found


def _has_one_value(given: Tensor) -> bool:
    """Return whether each channel has one value only."""
    return given.numel() == given.shape[1]


def _moments(given: Tensor) -> Moments:
    """Return the moments of a layer's input. The variance of one single value is 0."""
    if _has_one_value(given):
        return Moments(given.flatten(), torch.zeros_like(given.flatten()))
    return Moments.of(given)


def _combine_calls(calls: list[Moments], momentum: float | None) -> Moments:
    """Return the moments that running statistics hold after a forward pass that calls a layer several times."""
    keep = 1.0 if momentum is None else 1 - momentum
    raw = [keep ** (len(calls) - 1 - i) for i in range(len(calls))]
    fractions = [weight / sum(raw) for weight in raw]
    mean = torch.stack([f * c.mean for f, c in zip(fractions, calls, strict=True)]).sum(0)
    variance = torch.stack([f * c.variance for f, c in zip(fractions, calls, strict=True)]).sum(0)
    return Moments(mean, variance)
