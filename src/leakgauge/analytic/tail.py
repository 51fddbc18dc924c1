"""The known model from a linear layer on: which gradient an input of that layer would cause there."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from leakgauge.core import Domain, Loss, Observation, unit_shape
from leakgauge.federated.isolation.probing import doubled, probing, spread
from leakgauge.federated.isolation.untouched import output_of, value_of
from leakgauge.output import Contribution, contribution_of, loss_in


@dataclass(frozen=True)
class Tail:
    """A linear layer of the model, in float64, and what follows it, with how an example adds to the update."""

    model: nn.Module
    layer: nn.Linear
    loss: Loss
    domain: Domain
    contribution: Contribution
    classes: int

    @classmethod
    def of(cls, observation: Observation, name: str) -> Tail:
        """From the linear layer `name` on. The model must have classes."""
        assert observation.classes is not None, "callers refuse this"
        contribution = contribution_of(observation)
        assert isinstance(contribution, Contribution), "callers refuse this"
        model = doubled(observation.model)
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Linear), "callers name linear layers alone"
        return cls(
            model,
            layer,
            loss_in(observation, torch.float64, torch.device("cpu")),
            observation.domain,
            contribution,
            observation.classes,
        )

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
        passed = [self.deltas(features, label) != 0 for label in range(min(2, self.classes))]
        depth: Tensor = (-self.outputs(features)).clamp_min(0) * ~torch.stack(passed).any(0)
        return depth

    def explain(self, features: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For each example the label under which it would cause its delta (N, O), or come nearest.

        Returns the error relative to delta (N,), that label (N,), and what it would cause (N, O).
        """
        error = torch.full((len(features),), torch.inf, dtype=torch.float64)
        labels = torch.full((len(features),), -1)
        nearest = torch.zeros_like(deltas)
        size = deltas.norm(dim=1).clamp_min(torch.finfo(torch.float64).tiny)
        for label in range(self.classes):
            caused = self.deltas(features, label)
            apart = (caused - deltas).norm(dim=1) / size
            better = apart < error
            error = torch.where(better, apart, error)
            labels = torch.where(better, label, labels)
            nearest = torch.where(better[:, None], caused, nearest)
        return error, labels, nearest
