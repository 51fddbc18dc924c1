"""Dropout in train mode: the network that an adversary without masks simulates, and masks as variables."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

import pytest
import torch
from conftest import client, images, psnr, refusal, sigmoid_cnn
from torch import Tensor, nn
from torch.nn import functional

import leakgauge as lg
from leakgauge import attacks
from leakgauge.federated.layers.dropout import drawn_masks, mean_network
from leakgauge.federated.training.rounds import Rounds
from leakgauge.inversion import Candidate, FixedLabels, TotalVariation
from leakgauge.inversion.evaluation.batching import Loop, batch_restarts
from leakgauge.inversion.evaluation.compilation import Compiled
from leakgauge.inversion.evaluation.problem import Problem
from leakgauge.inversion.evaluation.step import DoubleBackward
from leakgauge.inversion.objectives.distances import relative_residual
from leakgauge.inversion.simulation.simulator import simulator
from leakgauge.inversion.variables.masks import MaskMean, Masks, masks_of, widen
from leakgauge.inversion.variables.wide import OfInputs

Observe = Callable[..., lg.Observation]

SECOND = attacks.SecondOrder(smoothness=0.0, warm=1, stages=2)
SIGNED = attacks.InvertingGradients(steps=3, tv=0.0)


def dropout_mlp(p: float = 0.2, *, ahead: nn.Module | None = None, width: int = 32) -> nn.Module:
    """Return a smooth MLP in train mode, with dropout after both hidden layers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [nn.Flatten(), nn.Linear(64, width), nn.Sigmoid(), nn.Dropout(p)]
        layers += [nn.Linear(width, width), nn.Sigmoid(), nn.Dropout(p), nn.Linear(width, 4)]
        model = nn.Sequential(*([] if ahead is None else [ahead]), *layers)
        for parameter in model.parameters():
            nn.init.uniform_(parameter, -0.5, 0.5)
    return model.train()


def shared_with_masks(
    model: nn.Module, batch: lg.Batch, training: lg.LocalTraining | None = None
) -> tuple[lg.Observation, list[list[Tensor]]]:
    """Return an observation, and the masks of each forward pass of the client. The masks are for the test alone."""
    steps: list[list[Tensor]] = []

    def keep(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        steps[-1].append((output != 0).to(output))

    hooks = [model.register_forward_pre_hook(lambda *_: steps.append([]))]
    hooks += [m.register_forward_hook(keep) for m in model.modules() if isinstance(m, nn.Dropout)]
    owner, seeds = client(model, training=training), lg.Seeds(7)
    with ExitStack() as end:
        for hook in hooks:
            end.callback(hook.remove)
        owner.share(owner.global_model(seeds=seeds), batch, seeds=seeds)
    # Equal seeds draw equal masks, so this observation has the masks from above.
    seen = lg.Server(labels=True).observe(owner, batch, seeds=seeds)
    return seen, [step for step in steps if step]


class TestMasks:
    @pytest.mark.parametrize("count", [1, 3])
    def test_the_true_input_and_masks_give_the_update(self, count: int) -> None:
        batch = images(count)
        seen, steps = shared_with_masks(dropout_mlp(), batch)
        assert residual(seen, batch, steps[-1]) < 1e-5
        assert residual(seen, batch, [torch.ones_like(m) for m in steps[-1]]) > 0.1

    def test_one_local_epoch_has_one_mask_an_example(self) -> None:
        batch = images(3)
        training = lg.FedAvg(minibatch=1, learning_rate=0.1)
        seen, steps = shared_with_masks(dropout_mlp(), batch, training)
        masks = [torch.cat(each) for each in zip(*steps[-3:], strict=True)]
        assert residual(seen, batch, masks) < 1e-4
        assert residual(seen, batch, [m.flip(0) for m in masks]) > 0.1

    @pytest.mark.parametrize(
        ("layer", "shape"),
        [
            (nn.Dropout(0.3), (1, 8, 4, 4)),
            (nn.Dropout(0.3, inplace=True), (1, 8, 4, 4)),
            (nn.Dropout2d(0.3), (1, 8, 1, 1)),
            (nn.Sequential(nn.Flatten(2), nn.Dropout1d(0.3)), (1, 8, 1)),
            (nn.Sequential(nn.Unflatten(1, (2, 4)), nn.Dropout3d(0.3)), (1, 2, 1, 1, 1)),
        ],
    )
    def test_each_kind_of_layer_masks_what_it_masks_in_torch(
        self, observe: Observe, layer: nn.Module, shape: tuple[int, ...]
    ) -> None:
        convolution = nn.Conv2d(1, 8, 3, stride=2, padding=1)
        rest = nn.Sequential(nn.Flatten(), nn.Linear(128, 4))
        seen = observe(nn.Sequential(convolution, layer, rest).train(), images(2))
        masks = found_masks(seen)
        assert masks.shapes == (shape,)
        with lg.Seeds(3).isolated("draw"), torch.no_grad():
            before = convolution(images(2).inputs)
            after = layer(before.clone()).reshape(2, *(shape[1:2]), -1)
        kept = (after != 0).to(after)
        kept = kept if len(shape) == 4 and shape[-1] > 1 else kept[..., :1]
        wide = masks.joined(images(2).inputs, kept.reshape(2, -1))
        with torch.no_grad():
            assert torch.allclose(
                widen(seen, masks).model(wide), rest(after.reshape(2, -1)), atol=1e-6
            )

    def test_a_functional_dropout_is_found(self, observe: Observe) -> None:
        seen = observe(Functional().train(), images(2))
        assert found_masks(seen).shapes == ((1, 64), (1, 4))

    @pytest.mark.parametrize(
        ("model", "reason"),
        [
            (dropout_mlp().eval(), "no active dropout"),
            (sigmoid_cnn(), "no active dropout"),
            (dropout_mlp(ahead=nn.AlphaDropout(0.1)), "alpha_dropout"),
            (
                dropout_mlp(ahead=nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.RReLU())),
                "other than dropout masks",
            ),
        ],
    )
    def test_says_why_not(self, observe: Observe, model: nn.Module, reason: str) -> None:
        found = refusal(attacks.DropoutInversion(), observe(model.train(model.training), images(1)))
        assert found is not None
        assert reason in found

    @pytest.mark.parametrize("heads", [0, 2])
    def test_attention_that_draws_inside_is_refused(self, observe: Observe, heads: int) -> None:
        seen = observe(Attention(heads).train(), images(1), labels=True)
        found = refusal(attacks.DropoutInversion(), seen)
        assert found is not None
        assert "cannot be given" in found
        still = mean_network(seen).model
        assert torch.equal(still(images(2).inputs), still(images(2).inputs))

    def test_masks_in_place_have_a_slope(self, observe: Observe) -> None:
        layers = [nn.Flatten(), nn.Linear(64, 8), nn.Dropout(0.3, inplace=True), nn.Linear(8, 4)]
        seen = observe(nn.Sequential(*layers).train(), images(2))
        guess = attacks.DropoutInversion(attack=SIGNED)(seen, seeds=lg.Seeds(0))
        assert guess.status is not lg.Status.DIVERGED

    def test_masks_that_change_between_steps_are_refused(self, observe: Observe) -> None:
        seen = observe(dropout_mlp(), images(2), training=lg.FedAvg(epochs=2))
        assert "2 local epochs" in (refusal(attacks.DropoutInversion(), seen) or "")
        seen = observe(dropout_mlp(), images(2))
        several = replace(seen, training=Rounds(lg.FedSGD(), (dropout_mlp(),)))
        assert "each round" in (refusal(attacks.DropoutInversion(), several) or "")

    def test_the_mean_term_is_zero_at_masks_of_the_right_mean(self, observe: Observe) -> None:
        masks = found_masks(observe(dropout_mlp(0.25), images(2)))
        right = masks.joined(images(2).inputs, masks.keep(images(2).inputs).expand(2, -1))
        assert float(MaskMean(masks)(Candidate(right, torch.zeros(2), {}, {}))) < 1e-12
        ones = torch.cat([images(2).inputs.flatten(1), torch.ones(2, 64)], dim=1)
        wrong = float(MaskMean(masks)(Candidate(ones, torch.zeros(2), {}, {})))
        assert wrong == pytest.approx(2 * 0.25**2, rel=1e-4)

    def test_priors_see_the_inputs_alone(self, observe: Observe) -> None:
        masks = found_masks(observe(dropout_mlp(), images(2)))
        wide = masks.joined(images(2).inputs, torch.rand(2, 64))
        term = OfInputs(TotalVariation(), masks)
        assert term.local
        plain = TotalVariation()(Candidate(images(2).inputs, torch.zeros(2), {}, {}))
        assert torch.equal(term(Candidate(wide, torch.zeros(2), {}, {})), plain)


class Functional(nn.Module):
    """A network with functional dropout, as many users write it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.dropout(x.flatten(1), 0.3, training=self.training)
        return functional.dropout(self.linear(x), 0.1, self.training)


class Attention(nn.Module):
    """A network whose attention draws masks inside one function. With heads, it is PyTorch's own module."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 4)
        self.own = nn.MultiheadAttention(8, heads, dropout=0.1) if heads else None

    def forward(self, x: Tensor) -> Tensor:
        rows = x.squeeze(1)
        if self.own is not None:
            return self.linear(self.own(rows, rows, rows)[0]).mean(1)  # type: ignore[no-any-return]
        p = 0.1 if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(rows, rows, rows, dropout_p=p)
        out: Tensor = self.linear(mixed).mean(1)
        return out


def found_masks(seen: lg.Observation) -> Masks:
    """Return the masks of an observation in which they can be variables."""
    masks = masks_of(seen)
    assert isinstance(masks, Masks), masks
    return masks


def residual(seen: lg.Observation, batch: lg.Batch, masks: list[Tensor]) -> float:
    """Return the residual of the update that the private batch gives with these masks."""
    layout = found_masks(seen)
    wide = layout.joined(batch.inputs, torch.cat([m.flatten(1) for m in masks], dim=1))
    simulated = simulator(widen(seen, layout), create_graph=False)(wide, batch.targets)
    return float(relative_residual(simulated, seen.update.tensors))


class TestAttack:
    def test_recovers_what_the_mean_network_does_not(self, observe: Observe) -> None:
        batch, others = images(1), images(1, seed=9)
        seen = observe(dropout_mlp(), batch, labels=True)
        joint = attacks.DropoutInversion(attack=SECOND, weight=0.0)(seen, seeds=lg.Seeds(0))
        alone = replace(SECOND, iterations=30)(seen, seeds=lg.Seeds(0))
        assert psnr(batch.inputs, joint.inputs).min() > 60
        assert joint.status is lg.Status.CONVERGED
        assert joint.diagnosis is not None
        assert joint.diagnosis.unknowns == 64 + 64
        assert psnr(batch.inputs, alone.inputs).max() < 20
        assert alone.status is lg.Status.UNCONVERGED
        assert psnr(others.inputs, joint.inputs).max() < 20

    def test_two_examples_have_masks_of_their_own(self, observe: Observe) -> None:
        batch = images(2)
        seen = observe(dropout_mlp(), batch, labels=True)
        guess = attacks.DropoutInversion(attack=SECOND, weight=0.0)(seen, seeds=lg.Seeds(0))
        assert psnr(batch.inputs, guess.inputs).min() > 60
        assert guess.inputs.shape == batch.inputs.shape
        assert guess.trajectory[0].inputs.shape == batch.inputs.shape

    def test_signed_adam_keeps_masks_in_their_range(self, observe: Observe) -> None:
        seen = observe(dropout_mlp(), images(1), labels=True)
        few, more = (
            attacks.DropoutInversion(attack=replace(SIGNED, steps=steps))(seen, seeds=lg.Seeds(0))
            for steps in (3, 80)
        )
        assert more.objectives[0] < few.objectives[0]
        assert psnr(images(1).inputs, more.inputs).min() > 12

    def test_masks_come_from_the_update_alone(self, observe: Observe) -> None:
        """Later changes of the client's batch, model or generator do not matter."""
        batch = images(2)
        model = dropout_mlp()
        seen = observe(model, batch)
        attack = attacks.DropoutInversion(attack=SIGNED)
        expected = attack(seen, seeds=lg.Seeds(0))
        batch.inputs.fill_(float("nan"))
        for parameter in model.parameters():
            parameter.data.fill_(0)
        before = torch.random.get_rng_state()
        torch.manual_seed(99)
        drawn_so_far = torch.random.get_rng_state()
        again = attack(seen, seeds=lg.Seeds(0))
        assert torch.equal(torch.random.get_rng_state(), drawn_so_far)
        torch.random.set_rng_state(before)
        assert torch.equal(expected.inputs, again.inputs)
        other = attack(seen, seeds=lg.Seeds(1))
        assert not torch.equal(expected.inputs, other.inputs)

    def test_traced_and_batched_steps_agree_with_the_eager_one(self, observe: Observe) -> None:
        seen = observe(dropout_mlp(), images(2), labels=True)
        masks = found_masks(seen)
        attack = attacks.DropoutInversion(attack=SIGNED)
        matching = attack.matching(masks)
        labels = FixedLabels(images(2).targets)
        wide = widen(seen, masks)
        problem = Problem(
            wide, matching.objective, matching.parametrization, labels, images(2).targets
        )
        generator = torch.Generator().manual_seed(1)
        at = matching.parametrization.start(wide, generator)
        value, (slope,) = DoubleBackward(problem)((at,), 0.0)
        assert float(slope[:, 64:].abs().max()) > 0
        for order in ("reverse", "forward"):
            other, (theirs,) = Compiled.of(problem, order=order)((at,), 0.0)
            assert torch.allclose(value, other, atol=1e-6)
            assert torch.allclose(slope, theirs, atol=1e-5)
        both = torch.stack([at, at + 0.1])
        fixed = images(2).targets.expand(2, -1)
        loop = Loop(DoubleBackward(problem), fixed)((both,), 0.0)
        axis = batch_restarts(problem, fixed, 2)((both,), 0.0)
        assert torch.allclose(loop[0], axis[0], atol=1e-6)
        assert torch.allclose(loop[1][0], axis[1][0], atol=1e-5)


class TestMeanNetwork:
    def test_is_the_network_in_eval_mode(self, observe: Observe) -> None:
        seen = observe(dropout_mlp(), images(2))
        still = mean_network(seen)
        assert still.model.training
        assert torch.equal(still.model(images(2).inputs), dropout_mlp().eval()(images(2).inputs))
        assert seen.model is not still.model

    def test_leaves_alone_what_draws_nothing(self, observe: Observe) -> None:
        for model in (dropout_mlp().eval(), sigmoid_cnn().train()):
            seen = observe(model, images(2))
            assert mean_network(seen) is seen

    def test_batch_normalization_stays_in_train_mode(self, observe: Observe) -> None:
        normal = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Dropout(0.3), nn.Linear(64, 4))
        seen = observe(normal.train(), images(3))
        expected = nn.Sequential(*(m for m in normal if not isinstance(m, nn.Dropout)))
        with torch.no_grad():
            assert torch.equal(
                mean_network(seen).model(images(3).inputs), expected(images(3).inputs)
            )

    def test_a_descent_sees_one_objective(self, observe: Observe) -> None:
        """Second order differentiates by vmap, which refuses random draws."""
        seen = observe(dropout_mlp(), images(1), labels=True)
        few = attacks.SecondOrder(smoothness=0.0, warm=1, iterations=3, stages=1)
        first, second = (few(seen, seeds=lg.Seeds(0)) for _ in range(2))
        assert first.residual == second.residual
        eager = attacks.OneGradient(attack=SIGNED)
        steps = observe(dropout_mlp(), images(2), labels=True, training=lg.FedAvg(epochs=2))
        before = torch.random.get_rng_state()
        eager(steps, seeds=lg.Seeds(0))
        assert torch.equal(before, torch.random.get_rng_state())


class TestClosedForms:
    def test_dropout_behind_the_first_layer_hides_nothing_from_it(self, observe: Observe) -> None:
        batch = images(1)
        guess = attacks.LinearLayer()(observe(dropout_mlp(0.5), batch), seeds=lg.Seeds(0))
        assert psnr(batch.inputs, guess.inputs).min() > 80
        # The masks are unknown, so nothing can simulate the update and certify the result.
        assert guess.status is lg.Status.UNCONVERGED

    @pytest.mark.parametrize("attack", [attacks.LinearLayer(), attacks.Spear(rounds=2)])
    def test_what_is_certified_is_right(self, observe: Observe, attack: lg.Attack) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            layers = [nn.Flatten(), nn.Linear(64, 96), nn.ReLU(), nn.Dropout(0.3), nn.Linear(96, 4)]
        batch = images(3)
        guess = attack(observe(nn.Sequential(*layers).train(), batch), seeds=lg.Seeds(0))
        right = bool((psnr(batch.inputs, guess.inputs) > 60).all())
        assert right or guess.status is not lg.Status.CERTIFIED

    def test_dropout_ahead_of_it_is_refused_by_chance_never(self) -> None:
        """At p = 0.1, most draws keep both columns. A probe of the network alone would take dropout for an identity."""
        domain = lg.TableDomain.from_ranges(["a", "b"], [0, 0], [1, 2])
        model = nn.Sequential(nn.Dropout(0.1), nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 4))
        owner = lg.Client(
            model=model.train(), loss=functional.cross_entropy, domain=domain, classes=4
        )
        batch = lg.Batch(torch.tensor([[0.5, 1.0]]), torch.tensor([1]))
        for seed in range(5):
            seen = lg.Server().observe(owner, batch, seeds=lg.Seeds(seed))
            for attack in (attacks.LinearLayer(), attacks.Spear(), attacks.CocktailParty()):
                assert "dropout before the first linear layer" in (refusal(attack, seen) or "")

    def test_features_behind_dropout_are_not_claimed(self, observe: Observe) -> None:
        for attack in (attacks.SoftmaxUnmixing(), attacks.FeatureInversion()):
            assert "random draws" in (refusal(attack, observe(dropout_mlp(), images(2))) or "")


class TestModels:
    @pytest.mark.parametrize("name", ["mlp", "lenet", "fedavg_cnn", "vit"])
    def test_dropout_is_an_option(self, name: str) -> None:
        build = lg.models.BUILDERS
        assert name in build
        builder = getattr(lg.models, name)
        domain = lg.ImageDomain(1, 8, 8)
        plain, model = builder(domain, 4), builder(domain, 4, dropout=0.25)
        kept = [(n, tuple(p.shape)) for n, p in plain.named_parameters()]
        assert len(kept) == len(list(model.named_parameters()))
        assert torch.equal(
            torch.cat([p.flatten() for p in plain.parameters()]),
            torch.cat([p.flatten() for p in model.parameters()]),
        )
        x = images(2).inputs
        assert torch.equal(plain(x), model(x))
        seen = lg.Server().observe(client(model.train()), images(2), seeds=lg.Seeds(0))
        assert {call.p for call in drawn_masks(seen)} == {0.25}
        with pytest.raises(lg.ModelError, match="dropout"):
            builder(domain, 4, dropout=1.0)
