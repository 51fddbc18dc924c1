"""The start and end, shared by R-GAP and peeling, of a recursion from the output of a chain of layers to its input."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from leakgauge.analytic.chain import Chain, ChainLayer, chain_of
from leakgauge.analytic.last_layer import rounding
from leakgauge.analytic.linear import rank_one
from leakgauge.analytic.output_layer import starts
from leakgauge.attacks.labels import plan_labels
from leakgauge.core import Inapplicable, Observation, Seeds
from leakgauge.inversion.objectives.distances import relative_residual
from leakgauge.inversion.simulation.simulator import simulator
from leakgauge.output.one_label import Explained


@dataclass(frozen=True)
class Beginning:
    """A layer with known input and known gradient, at which the recursion can start.

    Args:
        place: Index of the layer in the chain.
        features: The layer's input h, (F,).
        delta: The gradient of the loss at the layer's output, (O,).
        label: The class of the example. None if the layer does not show it.
    """

    place: int
    features: Tensor
    delta: Tensor
    label: int | None


@dataclass(frozen=True)
class Recursion:
    """A chain of layers whose weights are all trained, and the gradient of one example.

    Args:
        chain: The layers.
        observation: The gradient and the granted knowledge.
        biased: Index of the first linear layer whose bias has a gradient, or None if there is none.
            At this layer, delta is the gradient of the bias.
    """

    chain: Chain
    observation: Observation
    biased: int | None

    def dweight(self, layer: ChainLayer) -> Tensor:
        """Return the gradient of a layer's weight in float64, on the CPU."""
        return tensor_of(self.observation, f"{layer.name}.weight")

    def rounding(self, layer: ChainLayer) -> float:
        """Return the relative rounding error of the gradient of a layer's weight."""
        return rounding(self.observation.update.tensors[f"{layer.name}.weight"]).shared

    def beginnings(self) -> list[Beginning]:
        """Return the possible starts of the recursion, the best one first."""
        explained = self._explained()
        if self.biased is None:
            last = len(self.chain.layers) - 1
            return [Beginning(last, s.features, s.delta, s.label) for s in explained]
        layer = self.chain.layers[self.biased]
        weight, bias = self.dweight(layer), tensor_of(self.observation, f"{layer.name}.bias")
        features = rank_one(weight, bias, torch.ones_like(weight))
        label = explained[0].label if explained else None
        return [Beginning(self.biased, features, bias, label)]

    def _explained(self) -> list[Explained]:
        """Return the labels, inputs and deltas that explain the gradient of the last layer, the best ones first."""
        last, observation = self.chain.layers[-1], self.observation
        dweight = self.dweight(last)
        if not isinstance(last.module, nn.Linear) or observation.classes is None:
            return []
        if not dweight.any():
            return []
        biased = f"{last.name}.bias" in observation.update.tensors
        dbias = tensor_of(observation, f"{last.name}.bias") if biased else None
        classes = max(2, observation.classes)
        found = starts(self.chain, observation.loss, dweight, dbias, classes=classes)
        granted = observation.knowledge.labels
        if granted is not None and granted.ndim == 1:
            found = [start for start in found if start.label == int(granted[0])]
        return found

    def label_of(self, start: Beginning, seeds: Seeds) -> Tensor | None:
        """Return the label (1,) of the example, or None if it is unknown.

        The label that explains the last layer's gradient comes first. Without one, the label is
        granted, or recovered from the update.
        """
        observation = self.observation
        if start.label is not None:
            return torch.tensor([start.label], device=observation.update.like.device)
        if observation.classes is None:
            return observation.knowledge.labels
        known = plan_labels(observation)
        if isinstance(known, Inapplicable):
            return observation.knowledge.labels
        return known.read(seeds)[0]

    def inputs(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the example `(1, *shape)` in unit coordinates and in the domain's units.

        Args:
            features: The input of the first layer.
        """
        # The domain's range is public, so that a value outside it must be an error.
        unit = (
            self.chain.invert(features.reshape(1, -1)).clamp(0, 1).to(self.observation.update.like)
        )
        return unit, self.observation.domain.from_unit(unit)

    def residual(self, unit: Tensor, targets: Tensor) -> float:
        """Return the relative residual of the update of an example `(1, *shape)` in unit coordinates."""
        simulated = simulator(self.observation, create_graph=False)(unit, targets)
        return float(relative_residual(simulated, self.observation.update.tensors))


def recursion_of(observation: Observation) -> Recursion | Inapplicable:
    """Return the recursion through the model on the gradient of one example, or the reason why there is none."""
    reason = observation.not_one_example()
    if reason is not None:
        return Inapplicable(reason)
    chain = chain_of(observation.model, observation.domain)
    if isinstance(chain, Inapplicable):
        return chain
    for layer in chain.layers:
        if f"{layer.name}.weight" not in observation.update.tensors:
            return Inapplicable(f"the weight of {layer.name!r} is not trained")
    found = Recursion(chain, observation, _biased(chain, observation))
    last = chain.layers[-1]
    if found.biased is not None:
        return found
    if not isinstance(last.module, nn.Linear):
        return Inapplicable(
            f"the last layer, {last.name!r}, is a convolution, and no linear layer has a bias with a gradient"
        )
    if observation.classes is None:
        return Inapplicable(
            "without a bias, the recursion starts from the label: it needs a classification loss"
        )
    return found


def _biased(chain: Chain, observation: Observation) -> int | None:
    """Return the index of the first linear layer whose bias has a gradient, or None if there is none."""
    for i, layer in enumerate(chain.layers):
        db = observation.update.tensors.get(f"{layer.name}.bias")
        if isinstance(layer.module, nn.Linear) and db is not None and bool(db.any()):
            return i
    return None


def tensor_of(observation: Observation, name: str) -> Tensor:
    """Return a tensor of the update in float64, on the CPU."""
    return observation.update.tensors[name].detach().double().cpu()
