"""Defenses of the model: PRECODE against its written loss, local layers, and adaptive adversaries."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from conftest import client, images, mlp, psnr, refusal, sigmoid_cnn
from torch import Tensor, nn
from torch.nn import functional

import leakgauge as lg
from leakgauge.core import Misleading, ModelError, effect, trainable
from leakgauge.defenses import (
    Activation,
    Chain,
    Dropout,
    GaussianNoise,
    LocalLayers,
    Precode,
    TopK,
)
from leakgauge.federated.layers.bottleneck import VariationalBottleneck, at_mean, is_sampling
from leakgauge.federated.layers.dropout import mean_network
from leakgauge.inversion.simulation.simulator import drop_misleading
from leakgauge.output import head_of


def precoded(model: nn.Module, *, seed: int = 0, beta: float = 0.1) -> nn.Module:
    return Precode(latent=6, beta=beta).on_model(model, seeds=lg.Seeds(seed))


def bottleneck_of(model: nn.Module) -> VariationalBottleneck:
    (found,) = [m for m in model.modules() if isinstance(m, VariationalBottleneck)]
    return found


def by_hand(model: nn.Sequential, x: Tensor, y: Tensor, noise: Tensor) -> Tensor:
    """Return cross-entropy plus beta KL of an `mlp()` with a bottleneck, as the paper writes it."""
    h = model[:5](x)
    inner = bottleneck_of(model)
    mean, log_variance = inner.encoder(h).split(6, dim=1)
    variance = log_variance.exp()
    z = mean + variance.sqrt() * noise
    kl = 0.5 * (mean**2 + variance - variance.log() - 1).sum(1).mean()
    output = model[5].head(inner.decoder(z))  # type: ignore[union-attr, operator]
    return functional.cross_entropy(output, y) + inner.beta * kl


class TestBottleneck:
    def test_one_gradient_is_that_of_the_loss_with_its_kl_term(self) -> None:
        model, batch = precoded(mlp()), images(3)
        with lg.Seeds(3).isolated("a"):
            found = lg.FedSGD()(model, functional.cross_entropy, batch.inputs, batch.targets)
        with lg.Seeds(3).isolated("a"):
            noise = torch.randn(3, 6)
        assert isinstance(model, nn.Sequential)
        value = by_hand(model, batch.inputs, batch.targets, noise)
        expected = torch.autograd.grad(value, list(trainable(model).values()))
        for tensor, other in zip(found.values(), expected, strict=True):
            assert torch.allclose(tensor, other, rtol=1e-4, atol=1e-7)

    def test_transforms_differentiate_the_same_loss(self) -> None:
        """The gradient by torch.func agrees, and so does its derivative along a change of the inputs, in float64."""
        model, batch = at_mean(precoded(mlp())).double(), images(2)
        assert isinstance(model, nn.Sequential)
        x, change = batch.inputs.double(), torch.ones(2, 1, 8, 8).double()
        first = {n: p.detach() for n, p in trainable(model).items()}

        def gradient(x: Tensor) -> dict[str, Tensor]:
            def scalar(parameters: dict[str, Tensor]) -> Tensor:
                loss = functional.cross_entropy
                return lg.FedSGD().scalar(model, loss, parameters, x, batch.targets)

            return torch.func.grad(scalar)(first)  # type: ignore[no-any-return]

        def plain(x: Tensor) -> tuple[Tensor, ...]:
            value = by_hand(model, x, batch.targets, torch.zeros(2, 6).double())
            return torch.autograd.grad(value, list(trainable(model).values()))

        found, moved = torch.func.jvp(gradient, (x,), (change,))
        for tensor, other in zip(found.values(), plain(x), strict=True):
            assert torch.allclose(tensor, other, rtol=1e-9, atol=1e-12)
        steps = zip(plain(x + 1e-6 * change), plain(x - 1e-6 * change), strict=True)
        for tensor, (up, down) in zip(moved.values(), steps, strict=True):
            assert torch.allclose(tensor, (up - down) / 2e-6, rtol=1e-4, atol=1e-7)

    def test_draws_anew_in_each_forward_in_eval_mode_too(self) -> None:
        model, x = precoded(mlp()).eval(), images(2).inputs
        with lg.Seeds(0).isolated("a"):
            assert not torch.equal(model(x), model(x))
        mean = at_mean(model)
        assert torch.equal(mean(x), mean(x))
        assert is_sampling(model)
        assert not is_sampling(mean)

    def test_seeds_decide_weights_and_draws(self, observe: Callable[..., lg.Observation]) -> None:
        one, same, other = (precoded(mlp(), seed=seed).state_dict() for seed in (0, 0, 1))
        assert all(torch.equal(one[n], same[n]) for n in one)
        assert not all(torch.equal(one[n], other[n]) for n in one)
        twice = [observe(mlp(), images(2), under=Precode(latent=6)).update.tensors for _ in "ab"]
        assert all(torch.equal(twice[0][n], twice[1][n]) for n in twice[0])


class TestPrecode:
    def test_stands_before_the_last_linear_layer(
        self, observe: Callable[..., lg.Observation]
    ) -> None:
        model = mlp().double().eval()
        after = precoded(model)
        before, last = dict(model.named_parameters()), list(trainable(after))[-6:]
        assert [n for n in trainable(after) if n in before] == list(before)[:-2]
        assert [n.rpartition("5.")[2] for n in last] == [
            *(
                f"precode.{coder}.{n}"
                for coder in ("encoder", "decoder")
                for n in ("weight", "bias")
            ),
            "head.weight",
            "head.bias",
        ]
        assert {p.dtype for p in after.parameters()} == {torch.float64}
        assert not any(module.training for module in after.modules())
        seen = observe(mlp(), images(2), under=Precode(latent=6))
        found = head_of(seen.model, seen.domain)
        assert found is not None
        assert found.name == "5.head"

    def test_models_that_end_otherwise_are_refused(self) -> None:
        ends = nn.Sequential(nn.Linear(4, 4), nn.Conv2d(1, 4, 3))
        for model in (ends, nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), nn.Linear(4, 2)):
            with pytest.raises(ModelError, match="last"):
                precoded(model)

    def test_the_layers_from_the_bottleneck_on_are_not_believed(
        self, observe: Callable[..., lg.Observation]
    ) -> None:
        defense = Chain(defenses=(TopK(sparsity=0.0), Precode(latent=6)))
        seen = observe(mlp(), images(2), under=defense)
        kept = {n for n, t in drop_misleading(seen).update.tensors.items() if bool(t.any())}
        assert kept == {f"{layer}.{n}" for layer in (1, 3) for n in ("weight", "bias")}

    def test_who_simulates_draws_nothing_and_leaves_the_observation(
        self, observe: Callable[..., lg.Observation]
    ) -> None:
        seen = observe(mlp(), images(2), under=Precode(latent=6))
        assert not is_sampling(mean_network(seen).model)
        assert is_sampling(seen.model)

    def test_bypassed_by_who_knows_it(self, observe: Callable[..., lg.Observation]) -> None:
        batch, attack = images(1), lg.attacks.InvertingGradients(steps=300, tv=0.0)
        known, naive = (
            psnr(
                batch.inputs,
                attack(
                    observe(mlp(), batch, under=Precode(), defense=granted, labels=True),
                    seeds=lg.Seeds(0),
                ).inputs,
            ).item()
            for granted in (True, False)
        )
        assert known > naive + 6
        assert known > 15


class TestLocalLayers:
    @pytest.mark.parametrize(
        ("defense", "local"),
        [
            (LocalLayers(), {"5"}),
            (LocalLayers(last=2), {"3", "5"}),
            (LocalLayers(last=0, first=1), {"1"}),
            (LocalLayers(last=0, names=("3",)), {"3"}),
            (LocalLayers(last=1, first=1), {"1", "5"}),
        ],
    )
    def test_local_layers_do_not_leave_and_are_not_held(
        self, defense: LocalLayers, local: set[str], observe: Callable[..., lg.Observation]
    ) -> None:
        model, batch = mlp(), images(2)
        seen = observe(model, batch, under=defense)
        plain = lg.FedSGD()(model, functional.cross_entropy, batch.inputs, batch.targets)
        held, own = trainable(seen.model), trainable(model)
        for name, tensor in seen.update.tensors.items():
            hidden = name.partition(".")[0] in local
            assert torch.equal(tensor, torch.zeros_like(tensor) if hidden else plain[name])
            assert torch.equal(held[name], own[name]) != hidden
            assert bool(held[name].any())

    def test_a_name_stands_for_all_within_it(self) -> None:
        model = nn.Sequential(mlp(), nn.Sequential(nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 2)))
        found = LocalLayers(last=0, names=("1",)).local(trainable(model))
        assert found == {f"1.{i}.{n}" for i in (1, 2) for n in ("weight", "bias")}

    @pytest.mark.parametrize("defense", [LocalLayers(last=3), LocalLayers(names=("7",))])
    def test_models_that_it_does_not_fit_are_refused(self, defense: LocalLayers) -> None:
        with pytest.raises(ModelError, match="1, 3, 5"):
            client(mlp(), defense=defense).global_model(seeds=lg.Seeds(0))

    def test_what_is_held_is_drawn_as_layers_are(self) -> None:
        """A layer's own rule draws weights and statistics. Others are drawn as linear layers. The seed decides."""

        class Token(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.token = nn.Parameter(torch.full((1, 4), 9.0))

        model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), Token())
        norm = model[1]
        assert isinstance(norm, nn.BatchNorm1d)
        assert norm.running_mean is not None
        with torch.no_grad():
            norm.running_mean.fill_(3)
            norm.weight.fill_(3)
        one, same, other = (
            LocalLayers(last=2).shown(model, seeds=lg.Seeds(seed)).state_dict()
            for seed in (0, 0, 1)
        )
        assert torch.equal(one["1.weight"], torch.ones(4))
        assert not bool(one["1.running_mean"].any())
        assert float(one["2.token"].abs().max()) <= 0.5
        assert torch.equal(one["2.token"], same["2.token"])
        assert not torch.equal(one["2.token"], other["2.token"])
        assert torch.equal(one["0.weight"], model[0].weight)  # type: ignore[arg-type]
        assert float(norm.weight.detach()[0]) == 3

    def test_noise_in_place_of_local_layers_is_not_believed(
        self, observe: Callable[..., lg.Observation]
    ) -> None:
        noisy = Chain(defenses=(LocalLayers(), GaussianNoise(std=0.1)))
        seen = observe(mlp(), images(2), under=noisy)
        assert effect(LocalLayers(), Misleading) is not None
        assert bool(seen.update.tensors["5.weight"].all())
        assert not bool(drop_misleading(seen).update.tensors["5.weight"].any())
        assert bool(drop_misleading(seen).update.tensors["3.weight"].any())

    def test_who_knows_it_matches_what_was_shared(
        self, observe: Callable[..., lg.Observation]
    ) -> None:
        """The head's gradient is missing. Without knowledge of the defense, no batch explains that."""
        batch, attack = images(1), lg.attacks.InvertingGradients(steps=200, tv=0.0)
        known, naive = (
            attack(
                observe(sigmoid_cnn(), batch, under=LocalLayers(), defense=granted, labels=True),
                seeds=lg.Seeds(0),
            ).residual
            for granted in (True, False)
        )
        assert known is not None
        assert naive is not None
        assert known < naive


class TestDropout:
    def test_masks_are_drawn_in_training_alone_and_searched_by_who_knows(
        self, observe: Callable[..., lg.Observation]
    ) -> None:
        model, batch = mlp().eval(), images(2)
        after = Dropout(p=0.5).on_model(model, seeds=lg.Seeds(0))
        active = {name for name, module in after.named_modules() if module.training}
        assert active == {"5.dropout"}
        assert torch.equal(after.eval()(batch.inputs), model(batch.inputs))
        plain = observe(mlp(), batch).update.tensors["5.weight"]
        seen = observe(mlp(), batch, under=Dropout(p=0.5))
        silent = (seen.update.tensors["5.head.weight"] == 0).all(dim=0)
        assert int(silent.sum()) > int((plain == 0).all(dim=0).sum())
        assert refusal(lg.attacks.DropoutInversion(), seen) is None

    def test_a_model_that_ends_otherwise_is_refused(self) -> None:
        with pytest.raises(ModelError, match="last"):
            Dropout().on_model(nn.Linear(4, 2), seeds=lg.Seeds(0))


class Auxiliary(nn.Module):
    """A model with a head and an auxiliary head, whose output is computed but not returned."""

    def __init__(self, *, first: bool) -> None:
        super().__init__()
        names = ["auxiliary", "head"] if first else ["head", "auxiliary"]
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh())
        for name in names:
            setattr(self, name, nn.Linear(16, 4))

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.body(inputs)
        self.auxiliary(features)
        output: Tensor = self.head(features)
        return output


@pytest.mark.parametrize("defense", [Dropout(p=0.5), Precode(latent=6)])
def test_a_defense_is_not_put_before_a_layer_that_the_output_ignores(
    observe: Callable[..., lg.Observation], defense: lg.Defense
) -> None:
    observe(Auxiliary(first=True), images(1), under=defense)
    with pytest.raises(ModelError, match="register the head after"):
        observe(Auxiliary(first=False), images(1), under=defense)


class TestActivation:
    def test_every_activation_is_another_and_the_weights_are_left(self) -> None:
        model = mlp()
        after = Activation(kind="tanh").on_model(model, seeds=lg.Seeds(0))
        assert [type(m) for m in after.children()].count(nn.Tanh) == 2
        assert not any(isinstance(m, nn.ReLU) for m in after.modules())
        assert all(torch.equal(after.state_dict()[n], t) for n, t in model.state_dict().items())

    def test_one_module_that_is_run_twice_is_replaced_in_each_place(self) -> None:
        shared = nn.ReLU()
        model = nn.Sequential(nn.Linear(4, 4), shared, nn.Linear(4, 4), shared)
        after = Activation(kind="gelu").on_model(model, seeds=lg.Seeds(0))
        assert [type(m) for m in after.children()].count(nn.GELU) == 2

    def test_a_model_without_any_is_told(self) -> None:
        with pytest.raises(ModelError, match=r"torch\.nn\.ReLU"):
            Activation().on_model(nn.Sequential(nn.Linear(4, 2)), seeds=lg.Seeds(0))
