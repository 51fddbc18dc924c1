"""Soteria. Sun, Li, Wang, Yang, Li, Chen: Provable Defense against Privacy Leakage in Federated Learning from
Representation Perspective, CVPR 2021, section 4.

    r the input of a linear layer W;   dL/dW[:, i] = 0 for the features i with the largest   |r_i| / ||dr_i/dX||
"""

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
    """Zero the columns of the share `sparsity` in [0, 1) of the features behind which `layer` stands.

    `layer`: the name of a linear layer whose input is (B, n); where None, the one that the last parameter of
    two axes belongs to. 0.6 is what the authors' code is run with against Inverting Gradients (0.01 against
    DLG). Ours: over several examples the ratio's mean (their code sums its reciprocal, which is infinite for
    a feature of 0); of several local steps, the weight difference is pruned, once, by the features at the model
    that was sent. `probes`: gradients are measured feature by feature where 0, a backward pass each; else ||dr_i/dX||
    is the root mean square of (dr_i/dX) v over so many standard normal v, with which all features are told at once:
    16 err by about a fifth. Raises ModelError where there is no such layer.
    """

    strength: ClassVar[str] = "sparsity"
    claim: ClassVar[Claim] = Claim(
        "the features, in the gradient of the layer that reads them, that tell most of the input",
        "whoever sees the update",
        "leaves that layer's pruned columns out of the matching: all other layers tell what they told",
    )
    sparsity: Fraction = 0.6
    layer: str | None = None
    probes: Whole = 0

    def on_training(self, training: LocalTraining, *, seeds: Seeds) -> LocalTraining:
        return _Pruned(training, self, seeds)

    def adapt(self, observed: Update) -> Callable[[Tensors], Tensors]:
        """Simulated updates without the columns that are zero in the observed one."""
        name = self.weight(observed.tensors)
        seen = observed.tensors.get(name)
        if seen is None:
            return lambda simulated: simulated
        mask = (seen != 0).any(dim=0).to(seen.dtype)
        return lambda simulated: {**simulated, name: simulated[name] * mask}

    def weight(self, tensors: Tensors) -> str:
        """The name of the weight that is pruned; empty where nothing has two axes."""
        if self.layer is not None:
            return f"{self.layer}.weight"
        return next((name for name in reversed(tensors) if tensors[name].ndim == 2), "")


@dataclass(frozen=True)
class _Pruned(Wrapper):
    """Local training whose update lacks the columns of the features that tell most of the input."""

    defense: Soteria
    seeds: Seeds

    def update(self, task: Task) -> Tensors:
        """Return the update, pruned. Raise ModelError if there is no such layer."""
        model, inputs = task.model, task.inputs
        check_real(inputs, "defense Soteria")
        name = self.defense.weight(trainable(model))
        # What the forward pass draws, it draws again in the training itself.
        devices = [inputs.device] if inputs.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            features, leaf = features_of(model, linear(model, name), inputs)
        if self.defense.probes:
            generator = self.seeds.generator("soteria probes")
            telling = estimated(features, leaf, self.defense.probes, generator)
        else:
            telling = tellings(features, leaf)
        pruned = int(self.defense.sparsity * len(telling))
        mask = torch.ones_like(telling)
        mask[telling.argsort(descending=True, stable=True)[:pruned]] = 0
        update = task.by(self.training)
        return {**update, name: update[name] * mask.to(update[name])}


def features_of(model: nn.Module, layer: nn.Linear, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """What `layer` reads (B, n), and the inputs (B, *shape) that its gradients are taken at.

    Raises ModelError where the layer's input is not (B, n).
    """
    told: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, given: told.append(given[0]))
    leaf = inputs.detach().clone().requires_grad_()
    try:
        with torch.enable_grad():
            stateless(model, trainable(model), leaf)
    finally:
        hook.remove()
    if not told or told[0].ndim != 2 or len(told[0]) != len(inputs):
        raise ModelError(
            "defense Soteria",
            expected="a linear layer that reads one vector of features for each example",
            found=f"an input of shape {tuple(told[0].shape)}"
            if told
            else "a layer that is not run",
            remedy="name another with layer",
        )
    return told[0], leaf


def tellings(features: Tensor, leaf: Tensor) -> Tensor:
    """|r_i| / ||dr_i/dX|| (n,) of features (B, n), the mean over inputs (B, *shape); 0 where r_i is."""
    lengths = []
    for feature in features.unbind(1):
        slope: Tensor = torch.zeros_like(leaf)
        if feature.requires_grad:
            (slope,) = torch.autograd.grad(
                feature.sum(), leaf, retain_graph=True, materialize_grads=True
            )
        lengths.append(slope.flatten(1).norm(dim=1))
    return ratio(features, torch.stack(lengths, 1))


def estimated(features: Tensor, leaf: Tensor, probes: int, generator: torch.Generator) -> Tensor:
    """The same with ||dr_i/dX|| estimated along `probes` random directions."""
    if not features.requires_grad:
        return ratio(features, torch.zeros_like(features))
    # Two reverse passes make a forward one: the slope of u -> (dr/dX)' u, along v.
    dual = torch.zeros_like(features, requires_grad=True)
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(features, leaf, dual, create_graph=True)
    squares = torch.zeros_like(features)
    for _ in range(probes):
        v = torch.randn(leaf.shape, generator=generator).to(leaf)
        (along,) = torch.autograd.grad(slope, dual, v, retain_graph=True)
        squares += along.square()
    return ratio(features, (squares / probes).sqrt())


def ratio(features: Tensor, lengths: Tensor) -> Tensor:
    """The mean over examples (B, n) of |r| / ||dr/dX||: (n,)."""
    lengths = lengths.clamp_min(torch.finfo(lengths.dtype).tiny)
    return (features.detach().abs() / lengths).mean(0)


def linear(model: nn.Module, weight: str) -> nn.Linear:
    """The linear layer of that weight. Raises ModelError where it is none, or is not trained."""
    modules = dict(model.named_modules())
    path, _, leaf = weight.rpartition(".")
    layer = modules.get(path)
    if leaf != "weight" or not isinstance(layer, nn.Linear) or weight not in trainable(model):
        known = [name for name, module in modules.items() if isinstance(module, nn.Linear)]
        raise ModelError(
            "defense Soteria",
            expected=f"a trained linear layer, one of {', '.join(known) or 'none'}",
            found=repr(weight.removesuffix(".weight")),
            remedy="name it with layer",
        )
    return layer
