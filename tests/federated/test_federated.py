"""The forward operator of local training equals autograd, is differentiable and leaves no trace."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from conftest import client, images, mlp, sigmoid_cnn
from torch import Tensor, nn
from torch.nn import functional

import leakgauge as lg
from leakgauge.inversion.simulation.simulator import in_precision, simulator

Observe = Callable[..., lg.Observation]


def normed(*, seed: int = 0) -> nn.Module:
    """Return a network with BatchNorm in train mode, whose running statistics a forward would change."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.BatchNorm2d(4),
            nn.Sigmoid(),
            nn.Flatten(),
            nn.Linear(4 * 36, 4),
        ).train()


class TestFedSGD:
    @pytest.mark.parametrize("model", [mlp(), sigmoid_cnn(), normed()], ids=["mlp", "cnn", "bn"])
    def test_is_the_gradient_of_the_mean_loss(self, model: nn.Module) -> None:
        batch = images(3)
        twin = copy.deepcopy(model)
        functional.cross_entropy(twin(batch.inputs), batch.targets).backward()
        update = lg.FedSGD()(model, functional.cross_entropy, batch.inputs, batch.targets)
        assert list(update) == [name for name, _ in twin.named_parameters()]
        for name, parameter in twin.named_parameters():
            assert parameter.grad is not None
            assert torch.allclose(update[name], parameter.grad, rtol=1e-5, atol=1e-7)

    def test_a_batch_is_the_mean_of_its_examples(self) -> None:
        batch, model, training = images(4), mlp(), lg.FedSGD()
        whole = training(model, functional.cross_entropy, batch.inputs, batch.targets)
        singles = [
            training(model, functional.cross_entropy, x[None], y[None])
            for x, y in zip(batch.inputs, batch.targets, strict=True)
        ]
        for name, tensor in whole.items():
            mean = torch.stack([single[name] for single in singles]).mean(0)
            assert torch.allclose(tensor, mean, atol=1e-7)

    def test_soft_labels(self) -> None:
        x, soft = images(2).inputs, torch.tensor([[0.2, 0.8, 0, 0], [0, 0, 0.5, 0.5]])
        model = mlp()
        by_hand = torch.autograd.grad(
            -(soft * model(x).log_softmax(-1)).sum(1).mean(), list(model.parameters())
        )
        update = lg.FedSGD()(model, functional.cross_entropy, x, soft)
        for found, expected in zip(update.values(), by_hand, strict=True):
            assert torch.allclose(found, expected, atol=1e-6)

    def test_its_derivative_agrees_with_finite_differences(self) -> None:
        """Check the derivative of every entry of the update with respect to the inputs, in float64."""
        model = sigmoid_cnn(size=4).double()
        x = torch.rand((1, 1, 4, 4), generator=torch.Generator().manual_seed(0)).double()
        target = torch.tensor([1])

        def update(inputs: Tensor) -> Tensor:
            tensors = lg.FedSGD()(
                model, functional.cross_entropy, inputs, target, create_graph=True
            )
            # The gradient of this mixture depends on every entry.
            return torch.stack([t.sum() + t.square().sum() for t in tensors.values()])

        assert torch.autograd.gradcheck(update, x.requires_grad_(), eps=1e-6, atol=1e-6)

    def test_without_a_graph_nothing_is_kept(self) -> None:
        batch = images(1)
        inputs = batch.inputs.clone().requires_grad_()
        update = lg.FedSGD()(mlp(), functional.cross_entropy, inputs, batch.targets)
        assert not any(t.requires_grad for t in update.values())

    @pytest.mark.parametrize("create_graph", [False, True])
    def test_leaves_the_model_as_it_was(self, create_graph: bool) -> None:
        model, batch = normed(), images(3)
        before = copy.deepcopy(model.state_dict())
        lg.FedSGD()(
            model, functional.cross_entropy, batch.inputs, batch.targets, create_graph=create_graph
        )
        after = model.state_dict()
        assert "1.running_mean" in after
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert all(p.grad is None for p in model.parameters())
        assert model.training

    def test_one_layer_in_train_mode_is_enough(self) -> None:
        """In fine-tuning, a network is often in eval mode except for its normalization."""
        model, batch = normed().eval(), images(3)
        model[1].train()  # type: ignore[index]
        before = copy.deepcopy(model.state_dict())
        lg.FedSGD()(model, functional.cross_entropy, batch.inputs, batch.targets)
        assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())

    def test_frozen_parameters_are_left_out(self) -> None:
        model, batch = mlp(), images(1)
        model[1].requires_grad_(False)  # type: ignore[index]
        update = lg.FedSGD()(model, functional.cross_entropy, batch.inputs, batch.targets)
        assert set(update) == {"3.weight", "3.bias", "5.weight", "5.bias"}

    def test_a_parameter_that_is_not_used_has_gradient_zero(self) -> None:
        model, batch = mlp(), images(1)
        model.register_parameter("idle", nn.Parameter(torch.ones(3)))
        update = lg.FedSGD()(model, functional.cross_entropy, batch.inputs, batch.targets)
        assert update["idle"].tolist() == [0, 0, 0]

    @pytest.mark.parametrize(
        ("loss", "found"),
        [
            (lambda o, t: functional.cross_entropy(o, t, reduction="none"), "shape (2,)"),
            (lambda o, t: functional.cross_entropy(o, t)[None], "shape (1,)"),
            (lambda o, t: functional.cross_entropy(o, t).item(), "float"),
        ],
    )
    def test_a_loss_that_is_not_a_scalar_is_refused(self, loss: lg.core.Loss, found: str) -> None:
        batch = images(2)
        with pytest.raises(lg.ModelError) as caught:
            lg.FedSGD()(mlp(), loss, batch.inputs, batch.targets)
        assert "\n" not in str(caught.value)
        assert found in str(caught.value)
        assert "scalar" in str(caught.value)

    def test_a_loss_without_a_gradient_is_refused(self) -> None:
        """Accuracy instead of a loss raises an error with a remedy, not an error from inside autograd."""
        batch = images(2)
        with pytest.raises(lg.ModelError) as caught:
            lg.FedSGD()(
                mlp(),
                lambda output, target: (output.argmax(-1) == target).float().mean(),
                batch.inputs,
                batch.targets,
            )
        assert "\n" not in str(caught.value)

    def test_its_repr_is_its_configuration(self) -> None:
        assert eval(repr(lg.FedSGD()), {"FedSGD": lg.FedSGD}) == lg.FedSGD()
        assert isinstance(lg.FedSGD(), lg.LocalTraining)
        assert lg.FedSGD().kind == "gradient"


class TestClient:
    def owner(self, **changes: object) -> lg.Client:
        settings: dict[str, object] = {
            "model": mlp(),
            "loss": functional.cross_entropy,
            "domain": lg.ImageDomain(1, 8, 8),
            "classes": 4,
        }
        return lg.Client(**(settings | changes))  # type: ignore[arg-type]

    def test_a_sound_client_passes(self) -> None:
        model = normed()
        before = copy.deepcopy(model.state_dict())
        random = torch.random.get_rng_state()
        self.owner(model=model).check(images(2))
        assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
        assert torch.equal(random, torch.random.get_rng_state())

    def bad_model(self) -> nn.Module:
        model = mlp()
        with torch.no_grad():
            next(model.parameters())[0, 0] = math.nan
        return model

    @pytest.mark.parametrize(
        ("changes", "kind", "words"),
        [
            ({"model": mlp(63)}, lg.ModelError, ("Sequential", "(2, 1, 8, 8)", "RuntimeError")),
            ({"model": mlp(classes=1)}, lg.ModelError, ("targets (2,)",)),
            ({"loss": lambda o, t: o}, lg.ModelError, ("scalar", "(2, 4)")),
            ({"loss": lambda o: o.sum()}, lg.ModelError, ("TypeError",)),
            ({"loss": lambda o, t: 1 / 0}, lg.ModelError, ("ZeroDivisionError",)),
            ({"classes": 1}, lg.DataError, ("labels from 0 to 0", "0 to 1")),
            ({"domain": lg.ImageDomain(3, 8, 8)}, lg.DataError, ("(3, 8, 8)", "(1, 8, 8)")),
        ],
    )
    def test_check_tells_what_does_not_fit(
        self, changes: dict[str, object], kind: type[Exception], words: tuple[str, ...]
    ) -> None:
        with pytest.raises(kind) as caught:
            self.owner(**changes).check(images(2))
        assert "\n" not in str(caught.value)
        for word in words:
            assert word in str(caught.value)

    def test_check_tells_of_a_model_that_is_not_finite(self) -> None:
        with pytest.raises(lg.ModelError, match=r"finite weights.*'1\.weight'"):
            self.owner(model=self.bad_model()).check(images(1))
        model = normed()
        model[1].running_var.fill_(math.inf)  # type: ignore[index, union-attr, operator]
        with pytest.raises(lg.ModelError, match=r"'1\.running_var'"):
            self.owner(model=model).check(images(2))

    def test_check_tells_of_a_model_without_anything_to_train(self) -> None:
        with pytest.raises(lg.ModelError, match="trainable"):
            self.owner(model=mlp().requires_grad_(False)).check(images(1))

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_check_tells_of_inputs_that_are_not_finite(self, value: float) -> None:
        batch = images(2)
        batch.inputs[1, 0, 3, 3] = value
        with pytest.raises(lg.DataError, match="finite"):
            self.owner().check(batch)

    def test_check_tells_of_labels_below_zero(self) -> None:
        with pytest.raises(lg.DataError, match="labels from 0 to 3"):
            self.owner().check(lg.Batch(images(2).inputs, torch.tensor([0, -1])))

    def test_check_tells_of_a_loss_without_a_gradient(self) -> None:
        accuracy = self.owner(loss=lambda o, t: (o.argmax(-1) == t).float().mean())
        with pytest.raises(lg.ModelError):
            accuracy.check(images(2))

    @pytest.mark.parametrize("targets", [1, 3, 0])
    def test_a_batch_has_a_target_for_each_input(self, targets: int) -> None:
        with pytest.raises(lg.DataError, match=f"2 inputs and {targets} targets"):
            lg.Batch(images(2).inputs, torch.zeros(targets, dtype=torch.long))

    def test_an_empty_batch_is_none(self) -> None:
        with pytest.raises(lg.DataError, match="at least one"):
            lg.Batch(torch.zeros(0, 1, 8, 8), torch.zeros(0, dtype=torch.long))

    def test_the_global_model_is_a_copy(self) -> None:
        owner = self.owner()
        with torch.no_grad():
            next(owner.global_model(seeds=lg.Seeds(0)).parameters()).fill_(math.nan)
        assert all(torch.isfinite(p).all() for p in owner.model.parameters())


class TestSimulation:
    """Client and adversary run the same operator."""

    @pytest.mark.parametrize("model", [mlp(), sigmoid_cnn(), normed()], ids=["mlp", "cnn", "bn"])
    @pytest.mark.parametrize("create_graph", [False, True])
    def test_the_adversary_s_simulation_is_the_client_s_update(
        self, observe: Observe, model: nn.Module, create_graph: bool
    ) -> None:
        batch = images(3)
        observation = observe(model, batch)
        simulated = simulator(observation, create_graph=create_graph)(batch.inputs, batch.targets)
        assert simulated.keys() == observation.update.tensors.keys()
        for name, tensor in observation.update.tensors.items():
            assert torch.equal(simulated[name], tensor)

    def test_it_takes_unit_coordinates(self) -> None:
        domain = lg.TableDomain.from_ranges(["age", "pressure"], [18, 40], [100, 180])
        owner = lg.Client(model=mlp(2), loss=functional.cross_entropy, domain=domain, classes=4)
        batch = lg.Batch(torch.tensor([[54.0, 81.0]]), torch.tensor([1]))
        observation = lg.Server().observe(owner, batch, seeds=lg.Seeds(0))
        simulated = simulator(observation, create_graph=False)(
            domain.to_unit(batch.inputs), batch.targets
        )
        for name, tensor in observation.update.tensors.items():
            assert torch.allclose(simulated[name], tensor, rtol=1e-4, atol=1e-6)

    def test_a_copy_in_double_leaves_the_observed_one(self, observe: Observe) -> None:
        observation = observe(mlp(), images(1))
        double = in_precision(observation, torch.float64)
        assert all(p.dtype == torch.float64 for p in double.model.parameters())
        assert all(t.dtype == torch.float64 for t in double.update.tensors.values())
        assert all(p.dtype == torch.float32 for p in observation.model.parameters())
        assert all(t.dtype == torch.float32 for t in observation.update.tensors.values())

    def test_the_operator_draws_nothing_from_the_global_generator(self) -> None:
        batch, before = images(2), torch.random.get_rng_state()
        lg.Server(labels=True).observe(client(mlp()), batch, seeds=lg.Seeds(0))
        assert torch.equal(before, torch.random.get_rng_state())
