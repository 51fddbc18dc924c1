"""A local training that wraps another: one method computes the update, and the base class does the rest."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from conftest import images, mlp
from torch import Tensor, nn
from torch.nn import functional

import leakgauge as lg
from leakgauge.core import LocalSteps, LocalTraining, Loss, Tensors
from leakgauge.federated.training.aggregated import Aggregated
from leakgauge.federated.training.rounds import Rounds
from leakgauge.federated.training.wrapper import Task, Wrapper

LOSS = functional.cross_entropy


@dataclass(frozen=True)
class Doubled(Wrapper):
    """A wrapper that returns twice the update."""

    def update(self, task: Task) -> Tensors:
        return {name: 2 * t for name, t in task.by(self.training).items()}


@dataclass(frozen=True)
class Careless:
    """A user's local training, which writes to its batch and to the model."""

    kind: str = "gradient"

    def __call__(
        self,
        model: nn.Module,
        loss: Loss,
        inputs: Tensor,
        targets: Tensor,
        *,
        create_graph: bool = False,
    ) -> Tensors:
        found = lg.FedSGD()(model, loss, inputs, targets, create_graph=create_graph)
        inputs.zero_()
        model.visited = True  # type: ignore[assignment]
        return found


@pytest.mark.parametrize("inner", [lg.FedSGD(), lg.FedAvg(learning_rate=0.1)])
def test_a_wrapper_is_a_local_training_of_the_inner_kind(inner: LocalTraining) -> None:
    batch, wrapper = images(2), Doubled(inner)
    assert isinstance(wrapper, LocalTraining)
    assert wrapper.kind == inner.kind
    assert not isinstance(wrapper, LocalSteps)
    assert repr(wrapper).startswith("Doubled(training=Fed")
    plain = inner(mlp(), LOSS, batch.inputs, batch.targets)
    found = wrapper(mlp(), LOSS, batch.inputs, batch.targets)
    assert all(torch.equal(found[name], 2 * t) for name, t in plain.items())


def test_create_graph_reaches_the_inner_training() -> None:
    batch = images(2)
    inputs = batch.inputs.clone().requires_grad_()
    for graph in (False, True):
        found = Doubled(lg.FedSGD())(mlp(), LOSS, inputs, batch.targets, create_graph=graph)
        assert all(t.requires_grad == graph for t in found.values())


def test_a_user_s_own_training_leaves_no_trace_in_a_wrapper() -> None:
    batch, model = images(2), mlp()
    inputs = batch.inputs.clone()
    wrapper = Doubled(Careless())  # type: ignore[arg-type]
    first, second = (wrapper(model, LOSS, inputs, batch.targets) for _ in range(2))
    assert all(torch.equal(first[name], t) for name, t in second.items())
    assert torch.equal(inputs, batch.inputs)
    assert not hasattr(model, "visited")


def test_steps_are_those_of_the_inner_training() -> None:
    inner = lg.FedAvg(epochs=2, minibatch=2, learning_rate=0.1, weight_decay=0.01)
    rounds, several = Rounds(inner, (mlp(),)), Aggregated(training=inner, clients=2)
    assert (rounds.count_steps(6), several.count_steps(6)) == (6, 4)
    assert rounds.multiplier(6) == inner.multiplier(6)
    assert several.multiplier(6) == pytest.approx(inner.multiplier(3))
    assert rounds.weight_decay == several.weight_decay == 0.01
    assert (rounds.ignores_order(2), rounds.ignores_order(3)) == (True, False)
    plain = Rounds(lg.FedSGD(), (mlp(),))
    assert (plain.count_steps(6), plain.multiplier(6), plain.weight_decay) == (1, 1.0, 0.0)
