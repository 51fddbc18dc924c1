"""Soteria: the gradient of a linear layer loses the columns of its most revealing features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from leakgauge.core import (
    Claim,
    LocalTraining,
    ModelError,
    Seeds,
    Tensors,
    Update,
    trainable,
)
from leakgauge.core.ranges import Fraction, Whole
from leakgauge.core.space import check_real
from leakgauge.defenses.base import Undefended
from leakgauge.federated.training.fedsgd import stateless
from leakgauge.federated.training.wrapper import Task, Wrapper


@dataclass(frozen=True, kw_only=True)
class Soteria(Undefended):
    r"""Zero the gradient columns of the features that reveal most of the input (Soteria).

    It acts on the gradient computation. Only the gradient of one linear layer's weight changes.

    .. math::

        \frac{\partial L}{\partial W_{:, i}} = 0 \quad \text{for the features } i \text{ with the largest } \;
        \frac{|r_i|}{\|\partial r_i / \partial x\|_2}

    Here :math:`L` is the loss, :math:`W` the layer's weight, :math:`r` its input, and :math:`x` the
    example. For several examples the ratio is averaged. That is ours: the authors' code sums the
    reciprocal, which is infinite for a feature of 0. For several local steps the weight difference
    is pruned once, by the features of the model that the server sent. That is ours too.

    An adaptive adversary leaves the pruned columns out of the matching. All other layers are
    unchanged.

    Args:
        sparsity: Fraction of the features that is pruned, in [0, 1). The authors' code uses the
            default 0.6 against Inverting Gradients, and 0.01 against DLG.
        layer: Name of the linear layer. Its input must be (B, n). By default it is the layer of the
            last parameter with two axes.
        probes: Number of random directions for the estimate of the gradients' lengths, at least 0.
            At 0 they are exact, with one backward pass for each feature. With 16 the error is about
            20%.

    Raises:
        ModelError: No trained linear layer has that name, or its input is not (B, n).

    References:
        Sun, Li, Wang, Yang, Li, Chen. Soteria: Provable Defense against Privacy Leakage in
        Federated Learning from Representation Perspective. CVPR 2021, section 4. arXiv:2012.06043.

    Example:
        >>> import leakgauge as lg
        >>> observation = lg.examples.observation(defense=lg.defenses.Soteria(sparsity=0.5))
        >>> columns = observation.update.tensors["linear1.weight"].any(dim=0)
        >>> len(columns), int(columns.sum()) <= 16
        (32, True)
    """

    strength: ClassVar[str] = "sparsity"
    claim: ClassVar[Claim] = Claim(
        "the features that reveal most of the input, in the gradient of the layer that reads them",
        "anyone who sees the update",
        "leaves that layer's pruned columns out of the matching. All other layers are unchanged",
    )
    sparsity: Fraction = 0.6
    layer: str | None = None
    probes: Whole = 0

    def on_training(self, training: LocalTraining, *, seeds: Seeds) -> LocalTraining:
        return _Pruned(training, self, seeds)

    def adapt(self, observed: Update) -> Callable[[Tensors], Tensors]:
        """Return a function that zeroes the columns that are zero in the observed update."""
        name = self.weight(observed.tensors)
        seen = observed.tensors.get(name)
        if seen is None:
            return lambda simulated: simulated
        mask = (seen != 0).any(dim=0).to(seen.dtype)
        return lambda simulated: {**simulated, name: simulated[name] * mask}

    def weight(self, tensors: Tensors) -> str:
        """Return the name of the pruned weight, or an empty string if no tensor has two axes."""
        if self.layer is not None:
            return f"{self.layer}.weight"
        return next((name for name in reversed(tensors) if tensors[name].ndim == 2), "")


@dataclass(frozen=True)
class _Pruned(Wrapper):
    """Local training whose update lacks the columns of the most revealing features."""

    defense: Soteria
    seeds: Seeds

    def update(self, task: Task) -> Tensors:
        """Return the pruned update.

        Raises:
            ModelError: No trained linear layer has that name, or its input is not (B, n).
        """
        model, inputs = task.model, task.inputs
        check_real(inputs, "defense Soteria")
        name = self.defense.weight(trainable(model))
        # The training must draw the same random numbers as without this pass.
        devices = [inputs.device] if inputs.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            features, leaf = features_of(model, find_linear(model, name), inputs)
        if self.defense.probes:
            generator = self.seeds.generator("soteria probes")
            ratios = estimate_ratios(features, leaf, self.defense.probes, generator)
        else:
            ratios = measure_ratios(features, leaf)
        pruned = int(self.defense.sparsity * len(ratios))
        mask = torch.ones_like(ratios)
        mask[ratios.argsort(descending=True, stable=True)[:pruned]] = 0
        update = task.by(self.training)
        return {**update, name: update[name] * mask.to(update[name])}


def features_of(model: nn.Module, layer: nn.Linear, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the features that `layer` reads (B, n), and a copy of the inputs `(B, *shape)` for derivatives.

    Raises:
        ModelError: The layer's input is not (B, n).
    """
    read: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, given: read.append(given[0]))
    leaf = inputs.detach().clone().requires_grad_()
    try:
        with torch.enable_grad():
            stateless(model, trainable(model), leaf)
    finally:
        hook.remove()
    if not read or read[0].ndim != 2 or len(read[0]) != len(inputs):
        raise ModelError(
            "defense Soteria",
            expected="a linear layer that reads one vector of features for each example",
            found=f"an input of shape {tuple(read[0].shape)}"
            if read
            else "a layer that the forward pass does not use",
            remedy="set layer to the name of another linear layer",
        )
    return read[0], leaf


def measure_ratios(features: Tensor, leaf: Tensor) -> Tensor:
    """Return the ratio of each feature's size to the length of its gradient: (n,).

    The ratio is averaged over the examples. It is 0 for a feature of 0.

    Args:
        features: Features (B, n).
        leaf: Inputs `(B, *shape)` from which the features were computed.
    """
    lengths = []
    for feature in features.unbind(1):
        slope: Tensor = torch.zeros_like(leaf)
        if feature.requires_grad:
            (slope,) = torch.autograd.grad(
                feature.sum(), leaf, retain_graph=True, materialize_grads=True
            )
        lengths.append(slope.flatten(1).norm(dim=1))
    return mean_ratio(features, torch.stack(lengths, 1))


def estimate_ratios(
    features: Tensor, leaf: Tensor, probes: int, generator: torch.Generator
) -> Tensor:
    """Return the ratios of `measure_ratios`, with the lengths estimated along random directions.

    The length of a gradient is the root mean square of its products with standard normal
    directions.

    Args:
        features: Features (B, n).
        leaf: Inputs `(B, *shape)` from which the features were computed.
        probes: Number of random directions, at least 1.
        generator: Source of the directions.
    """
    if not features.requires_grad:
        return mean_ratio(features, torch.zeros_like(features))
    # Two backward passes give a forward derivative: u -> (dr/dx)' u is linear, and its derivative along v is (dr/dx) v.
    dual = torch.zeros_like(features, requires_grad=True)
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(features, leaf, dual, create_graph=True)
    squares = torch.zeros_like(features)
    for _ in range(probes):
        v = torch.randn(leaf.shape, generator=generator).to(leaf)
        (along,) = torch.autograd.grad(slope, dual, v, retain_graph=True)
        squares += along.square()
    return mean_ratio(features, (squares / probes).sqrt())


def mean_ratio(features: Tensor, lengths: Tensor) -> Tensor:
    """Return the mean over examples of the features' sizes divided by `lengths`, both (B, n): (n,)."""
    lengths = lengths.clamp_min(torch.finfo(lengths.dtype).tiny)
    return (features.detach().abs() / lengths).mean(0)


def find_linear(model: nn.Module, weight: str) -> nn.Linear:
    """Return the linear layer that holds a weight.

    Raises:
        ModelError: No trained linear layer holds it.
    """
    modules = dict(model.named_modules())
    path, _, leaf = weight.rpartition(".")
    layer = modules.get(path)
    if leaf != "weight" or not isinstance(layer, nn.Linear) or weight not in trainable(model):
        known = [name for name, module in modules.items() if isinstance(module, nn.Linear)]
        raise ModelError(
            "defense Soteria",
            expected=f"a trained linear layer, one of {', '.join(known) or 'none'}",
            found=repr(weight.removesuffix(".weight")),
            remedy="set layer to the name of a linear layer",
        )
    return layer
