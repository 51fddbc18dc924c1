"""Local training of several steps: it equals SGD of torch, has an exact derivative, and hides its order."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from conftest import client, images, mlp, psnr, refusal, sigmoid_cnn, trained
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

import leakgauge as lg
from leakgauge import attacks
from leakgauge.attacks.order_invariant import average_epochs
from leakgauge.federated.training.aggregated import Aggregated
from leakgauge.federated.training.fedavg import EpochsApart
from leakgauge.federated.training.local_steps import as_one_gradient, interpolate

Observe = Callable[..., lg.Observation]
TRAININGS = {
    "one step": lg.FedAvg(learning_rate=0.1),
    "epochs": lg.FedAvg(epochs=3, learning_rate=0.1),
    "minibatches": lg.FedAvg(epochs=2, minibatch=2, learning_rate=0.1),
    "momentum": lg.FedAvg(epochs=2, minibatch=2, learning_rate=0.1, momentum=0.9),
    "decay": lg.FedAvg(epochs=2, minibatch=1, learning_rate=0.1, weight_decay=0.01, decay=0.5),
    "shuffled": lg.FedAvg(epochs=3, minibatch=2, learning_rate=0.1, shuffle=True),
}


def by_torch(training: lg.FedAvg, model: nn.Module, batch: lg.Batch) -> dict[str, Tensor]:
    """Return the weight difference of torch.optim.SGD on a copy of the model."""
    old, moved = dict(model.named_parameters()), trained(model, training, batch)
    return {name: p.detach() - old[name].detach() for name, p in moved.named_parameters()}


def unrolled(
    training: lg.FedAvg, model: nn.Module, inputs: Tensor, targets: Tensor
) -> dict[str, Tensor]:
    """Return the weight difference with a graph of autograd through every step."""
    start = {name: p.detach().requires_grad_() for name, p in model.named_parameters()}
    now, velocity = dict(start), {name: torch.zeros_like(p) for name, p in start.items()}
    for step in training.steps(len(inputs)):
        some = list(step.examples)
        value = functional.cross_entropy(
            functional_call(model, now, (inputs[some],)), targets[some]
        )
        slopes = torch.autograd.grad(value, list(now.values()), create_graph=True)
        for (name, p), slope in zip(list(now.items()), slopes, strict=True):
            velocity[name] = training.momentum * velocity[name] + slope + training.weight_decay * p
            now[name] = p - step.learning_rate * velocity[name]
    return {name: now[name] - start[name] for name in now}


@pytest.mark.parametrize("training", TRAININGS.values(), ids=TRAININGS.keys())
def test_the_update_is_that_of_torch_sgd(training: lg.FedAvg) -> None:
    model, batch = mlp().double(), images(5)
    batch = lg.Batch(batch.inputs.double(), batch.targets)
    drawn = training.draw_orders(5, seeds=lg.Seeds(3))
    ours = drawn(model, functional.cross_entropy, batch.inputs, batch.targets)
    for name, seen in by_torch(drawn, model, batch).items():
        assert torch.allclose(ours[name], seen, rtol=0, atol=1e-14)


@pytest.mark.parametrize("training", TRAININGS.values(), ids=TRAININGS.keys())
def test_the_derivative_is_that_of_the_unrolled_graph(training: lg.FedAvg) -> None:
    model, batch = sigmoid_cnn().double(), images(4)
    drawn = training.draw_orders(4, seeds=lg.Seeds(3))
    inputs = batch.inputs.double().requires_grad_()
    targets = torch.rand((4, 4), dtype=torch.float64).softmax(-1).requires_grad_()

    def slopes(update: dict[str, Tensor]) -> tuple[Tensor, ...]:
        value = torch.stack([(i + 1) * t.square().sum() for i, t in enumerate(update.values())])
        return torch.autograd.grad(value.sum(), (inputs, targets))

    loss = functional.cross_entropy
    ours = slopes(drawn(model, loss, inputs, targets, create_graph=True))
    plain = slopes(unrolled(drawn, model, inputs, targets))
    for found, expected in zip(ours, plain, strict=True):
        assert torch.allclose(found, expected, rtol=1e-10, atol=0)


class Peak:
    """A counter of the largest number of values that graphs hold at one time."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def pack(self, tensor: Tensor) -> list[Tensor]:
        class Held(list[Tensor]):
            pass

        held, size = Held([tensor]), tensor.numel()
        weakref.finalize(held, self.drop, size)
        self.now += size
        self.most = max(self.most, self.now)
        return held

    def drop(self, size: int) -> None:
        self.now -= size


def test_graphs_hold_no_more_for_fifty_steps_than_for_two() -> None:
    model, batch, peaks = sigmoid_cnn(), images(2), []
    for steps in (2, 50):
        inputs, peak = batch.inputs.clone().requires_grad_(), Peak()
        with torch.autograd.graph.saved_tensors_hooks(peak.pack, lambda held: held[0]):
            update = lg.FedAvg(epochs=steps)(
                model, functional.cross_entropy, inputs, batch.targets, create_graph=True
            )
            sum(t.square().sum() for t in update.values()).backward()
        assert inputs.grad is not None
        peaks.append(peak.most)
    assert peaks[1] <= 1.1 * peaks[0]


def test_a_shuffling_client_draws_its_order_and_only_a_grant_tells_it(observe: Observe) -> None:
    training, batch = TRAININGS["shuffled"], images(5)
    told = observe(mlp(), batch, training=training, order=True, labels=True)
    untold = observe(mlp(), batch, training=training, labels=True)
    assert all(
        torch.equal(told.update.tensors[name], t) for name, t in untold.update.tensors.items()
    )
    assert isinstance(told.training, lg.FedAvg)
    assert [sorted(order) for order in told.training.orders] == [list(range(5))] * 3
    assert told.knowledge.order == told.training.orders
    assert untold.training == training
    assert untold.knowledge.order is None
    assert told.knowledge.labels is not None
    assert torch.equal(told.knowledge.labels, batch.targets)
    exact = told.training(told.model, told.loss, batch.inputs, batch.targets)
    assert all(torch.equal(exact[name], t) for name, t in told.update.tensors.items())
    other = untold.training(untold.model, untold.loss, batch.inputs, batch.targets)
    assert not all(torch.equal(other[name], t) for name, t in told.update.tensors.items())


def test_orders_of_another_count_are_refused() -> None:
    drawn = TRAININGS["shuffled"].draw_orders(4, seeds=lg.Seeds(0))
    batch = images(3)
    with pytest.raises(lg.DataError, match="orders"):
        drawn(mlp(), functional.cross_entropy, batch.inputs, batch.targets)


@pytest.mark.parametrize("options", [{"minibatch": 2}, {"momentum": 0.5}])
def test_small_steps_come_near_to_one_gradient(observe: Observe, options: dict[str, float]) -> None:
    small = replace(lg.FedAvg(epochs=3, learning_rate=1e-6), **options)
    model, batch = mlp(), images(4)
    gradient = observe(model, batch)
    seen = as_one_gradient(
        observe(model.double(), lg.Batch(batch.inputs.double(), batch.targets), training=small)
    )
    for name, t in gradient.update.tensors.items():
        assert torch.allclose(seen.update.tensors[name].float(), t, rtol=1e-2, atol=1e-5)
    assert as_one_gradient(gradient) is gradient


def test_the_interpolated_model_leads_from_start_to_end(observe: Observe) -> None:
    seen = observe(mlp(), images(2), training=TRAININGS["epochs"])
    start, end = interpolate(seen, 1.0).model, interpolate(seen, 0.0).model
    for name, p in seen.model.named_parameters():
        assert torch.equal(start.get_parameter(name), p)
        assert torch.allclose(end.get_parameter(name), p + seen.update.tensors[name])


@pytest.mark.parametrize("training", [TRAININGS["epochs"], TRAININGS["minibatches"]])
def test_exact_simulation_goes_further_than_one_gradient(
    observe: Observe, training: lg.FedAvg
) -> None:
    strong = replace(training, learning_rate=0.5)
    seen = observe(sigmoid_cnn(), images(2), training=strong, labels=True, order=True)
    attack = attacks.InvertingGradients(steps=300, tv=0)
    exact = attack(seen, seeds=lg.Seeds(0))
    ignored = attacks.OneGradient(attack=attack)(seen, seeds=lg.Seeds(0))
    assert exact.residual is not None
    assert ignored.residual is not None
    assert exact.residual < ignored.residual


def test_the_surrogate_needs_no_local_hyperparameters(observe: Observe) -> None:
    seen = observe(sigmoid_cnn(), images(2), training=TRAININGS["epochs"], labels=True)
    other = replace(seen, training=replace(TRAININGS["epochs"], epochs=9, learning_rate=0.7))
    attack = attacks.SurrogateModel(attack=attacks.InvertingGradients(steps=4), stages=2)
    first, second = attack(seen, seeds=lg.Seeds(0)), attack(other, seeds=lg.Seeds(0))
    assert torch.allclose(first.inputs, second.inputs, atol=1e-5)
    assert any(note.startswith("alpha of each stage: 0.5") for note in first.notes)


def test_several_steps_refuse_what_reads_one_gradient(observe: Observe) -> None:
    seen = observe(mlp(), images(2), training=TRAININGS["epochs"])
    for attack in (attacks.LinearLayer(), attacks.SecondOrder(), attacks.Spear()):
        assert "one gradient" in (refusal(attack, seen) or "")
    assert refusal(attacks.OneGradient(), observe(mlp(), images(1))) is not None


def test_auto_reads_local_steps_as_one_gradient_where_that_is_what_an_attack_reads(
    observe: Observe,
) -> None:
    batch = images(3)
    seen = observe(mlp(width=128), batch, training=lg.FedAvg(epochs=5, learning_rate=0.05))
    auto = attacks.Auto(attacks=(attacks.Spear(), attacks.InvertingGradients(steps=4)))
    guess = auto(seen, seeds=lg.Seeds(0))
    assert guess.notes[0].startswith("chosen by residual: OneGradient(attack=Spear(")
    assert any(note.startswith("Spear as if of one gradient: ") for note in guess.notes)
    assert guess.status is not lg.Status.CERTIFIED
    assert psnr(batch.inputs, guess.inputs).min() > 40


def test_epochs_apart_are_the_same_training_where_every_epoch_has_the_same_batch() -> None:
    training, batch = TRAININGS["momentum"], images(4)
    model, loss = mlp().double(), functional.cross_entropy
    inputs = batch.inputs.double()
    whole = training(model, loss, inputs, batch.targets)
    apart = EpochsApart.of(training)
    twice = apart(model, loss, inputs.repeat(2, 1, 1, 1), batch.targets.repeat(2))
    assert all(torch.equal(whole[name], t) for name, t in twice.items())


def test_what_epochs_found_is_matched_by_label_and_averaged() -> None:
    first = images(3).inputs
    labels = torch.tensor([0, 1, 1])
    order = torch.tensor([2, 0, 1])
    merged = average_epochs(
        torch.cat([first, first[order] + 0.1]), torch.cat([labels, labels[order]]), 2
    )
    assert torch.allclose(merged, first + 0.05)


def test_order_invariance_is_for_minibatches_in_an_unknown_order(observe: Observe) -> None:
    attack, batch = attacks.OrderInvariant(), images(4)
    shuffled = TRAININGS["shuffled"]
    assert refusal(attack, observe(mlp(), batch, training=shuffled)) is None
    told = observe(mlp(), batch, training=shuffled, order=True)
    assert "order is known" in (refusal(attack, told) or "")
    whole = observe(mlp(), batch, training=replace(shuffled, minibatch=None))
    assert "whole batch" in (refusal(attack, whole) or "")
    assert "fedavg" in (refusal(attack, observe(mlp(), batch)) or "")


def test_a_part_of_the_batch_has_no_residual(observe: Observe) -> None:
    seen = observe(mlp(width=16), images(6), training=lg.FedAvg(epochs=3, learning_rate=0.1))
    guess = attacks.OneGradient(attack=attacks.LinearLayer())(seen, seeds=lg.Seeds(0))
    assert guess.targets is not None
    assert (guess.targets >= 0).all() or guess.residual is None


def test_each_client_of_a_group_draws_its_own_order() -> None:
    training, batch = TRAININGS["shuffled"], images(6)
    group = lg.Aggregator(clients=2, order=True)
    seen = group.observe(client(mlp(), training=training), batch, seeds=lg.Seeds(0))
    assert isinstance(seen.training, Aggregated)
    assert seen.knowledge.order == seen.training.orders
    assert (
        len(set(seen.training.orders)) > training.epochs
    )  # Otherwise both clients had the same orders.
    halves = (slice(3), slice(3, 6))
    one = [
        own(mlp(), functional.cross_entropy, batch.inputs[part], batch.targets[part])
        for own, part in zip(seen.training.each, halves, strict=True)
    ]
    for name, t in seen.update.tensors.items():
        assert torch.allclose(t, (one[0][name] + one[1][name]) / 2, atol=1e-7)
