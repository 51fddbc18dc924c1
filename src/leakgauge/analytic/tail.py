"""The known model from a linear layer on: which gradient an input of that layer would cause there."""

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
    """A linear layer of the model, in float64, and what follows it, with how an example adds to the update."""

    model: nn.Module
    layer: nn.Linear
    loss: Loss
    domain: Domain
    contribution: Contribution

    @classmethod
    def of(cls, observation: Observation, name: str, contribution: Contribution) -> Tail:
        """Return the model from its linear layer `name` on.

        Raises:
            TypeError: the module of that name is no linear layer.
        """
        model = doubled(observation.model)
        layer = model.get_submodule(name)
        if not isinstance(layer, nn.Linear):
            raise TypeError(f"expected a linear layer; found {type(layer).__name__} {name!r}")
        loss = loss_in(observation, torch.float64, torch.device("cpu"))
        return cls(model, layer, loss, observation.domain, contribution)

    def outputs(self, features: Tensor) -> Tensor:
        """The layer's output (N, O) for its inputs (N, F)."""
        return torch.nn.functional.linear(features, self.layer.weight, self.layer.bias).detach()

    def responses(self, signals: Tensor) -> Tensor:
        """Return [W, b] @ signals' (O, n) of signals (n, F + 1), the bias's last."""
        weight = torch.nn.functional.linear(self.layer.weight, signals[:, :-1])
        if self.layer.bias is not None:
            weight = weight + torch.outer(self.layer.bias, signals[:, -1])
        return weight.detach()

    def deltas(self, features: Tensor, label: int) -> Tensor:
        """The gradient (N, O) at the layer's output that each example, of that label, adds to the batch's."""
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
        """How far the outputs (N, O) that pass no gradient back, whatever the label, lie below 0; 0 at the others."""
        passed = [
            self.deltas(features, label) != 0 for label in range(min(2, self.contribution.classes))
        ]
        depth: Tensor = (-self.outputs(features)).clamp_min(0) * ~torch.stack(passed).any(0)
        return depth

    def explain(self, features: Tensor, deltas: Tensor) -> Explanation:
        """Return for each example the label under which it would cause its delta (N, O), or come nearest.

        Misfits are relative to delta.
        """
        size = deltas.norm(dim=1).clamp_min(torch.finfo(torch.float64).tiny)

        def misfit(caused: Tensor) -> Tensor:
            apart: Tensor = (caused - deltas).norm(dim=1) / size
            return apart

        return explain(partial(self.deltas, features), misfit, range(self.contribution.classes))
