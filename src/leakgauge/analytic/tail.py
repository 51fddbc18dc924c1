"""The known model from a linear layer on, and the gradient that an input of that layer would cause there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from leakgauge.analytic.explanation import Explanation, explain
from leakgauge.core import Domain, Loss, Observation, unit_shape
from leakgauge.federated.isolation.probing import doubled, probing, spread
from leakgauge.federated.isolation.untouched import output_of, value_of
from leakgauge.output import Contribution, loss_in


@dataclass(frozen=True)
class Tail:
    """A linear layer and the model behind it, in float64.

    Args:
        model: The whole model.
        layer: The linear layer.
        loss: The loss.
        domain: The domain of the model's inputs.
        contribution: How an example adds to the update.
    """

    model: nn.Module
    layer: nn.Linear
    loss: Loss
    domain: Domain
    contribution: Contribution

    @classmethod
    def of(cls, observation: Observation, name: str, contribution: Contribution) -> Tail:
        """Return the model from its linear layer `name` on.

        Raises:
            TypeError: The module of that name is not a linear layer.
        """
        model = doubled(observation.model)
        layer = model.get_submodule(name)
        if not isinstance(layer, nn.Linear):
            raise TypeError(f"expected a linear layer; found {type(layer).__name__} {name!r}")
        loss = loss_in(observation, torch.float64, torch.device("cpu"))
        return cls(model, layer, loss, observation.domain, contribution)

    def outputs(self, features: Tensor) -> Tensor:
        """Return the layer's output (N, O) for its inputs (N, F)."""
        return torch.nn.functional.linear(features, self.layer.weight, self.layer.bias).detach()

    def responses(self, signals: Tensor) -> Tensor:
        """Return [W, b] @ signals' (O, n) for signals (n, F + 1), whose last column belongs to the bias."""
        weight = torch.nn.functional.linear(self.layer.weight, signals[:, :-1])
        if self.layer.bias is not None:
            weight = weight + torch.outer(self.layer.bias, signals[:, -1])
        return weight.detach()

    def deltas(self, features: Tensor, label: int) -> Tensor:
        """Return the part (N, O) that each example, with this label, adds to the batch's gradient at the output."""
        output = self.outputs(features).requires_grad_()
        stand_in = spread(unit_shape(self.domain), len(features), features)
        hook = self.layer.register_forward_hook(lambda *_: output)
        try:
            prediction = output_of(self.model, self.domain.from_unit(stand_in))
        finally:
            hook.remove()
        targets = torch.full((len(features),), label, dtype=torch.long)
        with probing("the loss"):
            value = value_of(self.loss, prediction, targets)
            (delta,) = torch.autograd.grad(value, [output])
        return delta * self.contribution.factor(len(features), label)

    def depth(self, features: Tensor) -> Tensor:
        """Return the distance (N, O) below 0 of each output without a gradient, and 0 for the other outputs."""
        passed = [
            self.deltas(features, label) != 0 for label in range(min(2, self.contribution.classes))
        ]
        depth: Tensor = (-self.outputs(features)).clamp_min(0) * ~torch.stack(passed).any(0)
        return depth

    def explain(self, features: Tensor, deltas: Tensor) -> Explanation:
        """Return, for each example, the label that predicts its delta (N, O) best.

        Misfits are relative to delta.
        """
        size = deltas.norm(dim=1).clamp_min(torch.finfo(torch.float64).tiny)

        def misfit(caused: Tensor) -> Tensor:
            apart: Tensor = (caused - deltas).norm(dim=1) / size
            return apart

        return explain(partial(self.deltas, features), misfit, range(self.contribution.classes))
