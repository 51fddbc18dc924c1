"""Defenses of the gradient against their closed forms, and the gain of an adaptive adversary."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import pytest
import torch
from conftest import client, images, mlp, psnr, refusal, sigmoid_cnn
from torch import Tensor, nn
from torch.nn import functional

import leakgauge as lg
from leakgauge.core import (
    Noise,
    Rounding,
    SingleGradient,
    Tensors,
    defend_update,
    effect,
    mean_noise,
)
from leakgauge.defenses import (
    DGC,
    DPSGD,
    Chain,
    GaussianNoise,
    LayerPruning,
    Outpost,
    Sign,
    Soteria,
    StochasticQuantization,
    TopK,
)
from leakgauge.defenses.soteria import estimate_ratios, features_of, measure_ratios
from leakgauge.federated.training.aggregated import Aggregated
from leakgauge.inversion.objectives.rounding import EDGE, surprisal

LAST = "5.weight"
"""The last linear layer of `mlp`."""


def wave(phase: float = 0.0, *, label: int = 0) -> lg.Batch:
    """Return a batch of one smooth image."""
    y, x = torch.meshgrid(torch.linspace(0, 1, 8), torch.linspace(0, 1, 8), indexing="ij")
    image = 0.5 + 0.4 * torch.sin(3 * x + phase) * torch.cos(4 * y + 2 * phase)
    return lg.Batch(image.view(1, 1, 8, 8), torch.tensor([label]))


def shared(
    model: nn.Module,
    batch: lg.Batch,
    defense: lg.Defense | None = None,
    *,
    training: lg.LocalTraining | None = None,
    root: int = 0,
) -> lg.Update:
    """Return the update that a client with the defense shares."""
    return client(model, defense=defense, training=training).share(
        model, batch, seeds=lg.Seeds(root)
    )


def pruned_columns(update: lg.Update, plain: lg.Update, name: str = LAST) -> set[int]:
    """Return the columns that a defense set to zero."""
    gone = (update.tensors[name] == 0).all(dim=0) & (plain.tensors[name] != 0).any(dim=0)
    return set(gone.nonzero().flatten().tolist())


def attacked(
    observe: Callable[..., lg.Observation], model: nn.Module, batch: lg.Batch, defense: lg.Defense
) -> tuple[float, float]:
    """Return the PSNR of an attack that knows the defense, and of the same attack without that knowledge."""
    attack = lg.attacks.InvertingGradients(steps=200)
    found = [
        attack(
            observe(model, batch, under=defense, defense=known, labels=True), seeds=lg.Seeds(0)
        ).inputs
        for known in (True, False)
    ]
    adaptive, naive = (float(psnr(batch.inputs, shown).mean()) for shown in found)
    return adaptive, naive


class TestSoteria:
    def test_the_ratio_is_that_of_the_jacobian(self) -> None:
        """The ratio |r_i| / ||dr_i/dx|| agrees with the full Jacobian of the features."""
        model, batch = mlp(), images(3)
        head = nn.Sequential(*list(model)[:-1])  # type: ignore[call-overload]
        jacobian = torch.autograd.functional.jacobian(head, batch.inputs)
        each = torch.stack([jacobian[b, :, b].flatten(1) for b in range(3)])  # (B, n, pixels)
        lengths, features = each.norm(dim=2), head(batch.inputs)
        expected = torch.where(features > 0, features / lengths, 0.0).mean(dim=0)
        read = features_of(model, model.get_submodule("5"), batch.inputs)  # type: ignore[arg-type]
        assert torch.allclose(measure_ratios(*read), expected, rtol=1e-4)
        probed = estimate_ratios(*read, 4000, torch.Generator().manual_seed(0))
        assert torch.allclose(probed, expected, rtol=0.1)

    def test_the_columns_that_tell_most_are_zero_and_all_else_is_left(self) -> None:
        model, batch = mlp(), images(1)
        plain, found = shared(model, batch), shared(model, batch, Soteria(sparsity=0.25))
        ratio = measure_ratios(*features_of(model, model.get_submodule("5"), batch.inputs))  # type: ignore[arg-type]
        assert pruned_columns(found, plain) == set(ratio.topk(12).indices.tolist())
        kept = (found.tensors[LAST] != 0).any(dim=0)
        assert torch.equal(found.tensors[LAST][:, kept], plain.tensors[LAST][:, kept])
        assert all(torch.equal(found.tensors[n], t) for n, t in plain.tensors.items() if n != LAST)

    def test_another_layer_may_be_named(self) -> None:
        model, batch = mlp(), images(1)
        found = shared(model, batch, Soteria(sparsity=0.25, layer="3"))
        plain = shared(model, batch)
        assert torch.equal(found.tensors[LAST], plain.tensors[LAST])
        assert len(pruned_columns(found, plain, "3.weight")) == 12

    @pytest.mark.parametrize("layer", ["0", "nowhere"])
    def test_a_layer_that_is_none_is_told(self, layer: str) -> None:
        with pytest.raises(lg.ModelError, match="one of 1, 3, 5"):
            shared(mlp(), images(1), Soteria(layer=layer))

    def test_features_that_are_no_vectors_are_told(self) -> None:
        model = nn.Sequential(nn.Linear(8, 6), nn.Flatten(), nn.Linear(48, 4))
        with pytest.raises(lg.ModelError, match="one vector of features"):
            shared(model, images(1), Soteria(layer="0"))

    def test_a_weight_difference_is_pruned_once(self) -> None:
        model, batch = mlp(), images(4)
        training = lg.FedAvg(epochs=2, minibatch=2)
        plain = shared(model, batch, training=training)
        found = shared(model, batch, Soteria(sparsity=0.5), training=training)
        assert found.kind == "delta"
        one = shared(model, batch, Soteria(sparsity=0.5))
        assert pruned_columns(found, plain) >= pruned_columns(one, shared(model, batch))
        assert torch.equal(found.tensors["1.weight"], plain.tensors["1.weight"])

    def test_masks_of_dropout_are_those_of_the_training(self) -> None:
        model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 32), nn.Linear(32, 4))
        plain, found = (shared(model, images(2), d) for d in (None, Soteria(sparsity=0.5)))
        assert torch.equal(plain.tensors["2.weight"], found.tensors["2.weight"])

    def test_who_knows_it_reads_what_was_there(
        self, observe: Callable[..., lg.Observation]
    ) -> None:
        adaptive, naive = attacked(observe, sigmoid_cnn(), wave(), Soteria(sparsity=0.6))
        assert adaptive > naive + 3


class TestSign:
    def test_is_the_sign_times_the_mean_magnitude(self) -> None:
        update = lg.Update({"a": torch.tensor([3.0, -1.0, 0.0, 4.0]), "b": torch.tensor(-2.0)})
        found = Sign().on_update(update, seeds=lg.Seeds(0)).tensors
        assert found["a"].tolist() == [2.0, -2.0, 0.0, 2.0]
        assert float(found["b"]) == -2.0

    def test_the_smooth_sign_has_the_same_signs_and_bounds(self) -> None:
        values = torch.linspace(-3, 3, 101)
        update = lg.Update({"a": values})
        seen = Sign().on_update(update, seeds=lg.Seeds(0))
        smooth = Sign().adapt(seen)(update.tensors)["a"]
        assert torch.equal(smooth.sign(), values.sign())
        assert float(smooth.abs().max()) <= float(seen.tensors["a"].max())
        assert bool((smooth.diff() >= 0).all())

    def test_who_knows_it_reads_more(self, observe: Callable[..., lg.Observation]) -> None:
        adaptive, naive = attacked(observe, mlp(), wave(1.0, label=1), Sign())
        assert adaptive > naive + 1


class TestStochasticQuantization:
    values = torch.randn(6, 7, generator=torch.Generator().manual_seed(0))

    def quantized(self, defense: StochasticQuantization, root: int = 0) -> Tensor:
        update = lg.Update({"a": self.values})
        return defense.on_update(update, seeds=lg.Seeds(root)).tensors["a"]

    def test_is_right_on_average(self) -> None:
        defense = StochasticQuantization(levels=2, bucket=20)
        draws = torch.stack([self.quantized(defense, root) for root in range(2000)])
        error = draws.mean(dim=0) - self.values
        # Four standard errors of 2000 draws. Each is at most half a level from the mean.
        assert bool((error.abs() <= 4 * draws.std(dim=0) / 2000**0.5 + 1e-6).all())
        assert float(draws.std(dim=0).max()) > 0.1

    @pytest.mark.parametrize("levels", [1, 3, 7])
    def test_each_entry_is_at_one_of_the_two_levels_around_it(self, levels: int) -> None:
        found = self.quantized(StochasticQuantization(levels=levels, bucket=1000))
        step = float(self.values.norm()) / levels
        shares = found / step
        assert torch.allclose(shares, shares.round(), atol=1e-5)
        assert float((found - self.values).abs().max()) <= step * (1 + 1e-5)
        assert len(shares.round().abs().unique()) <= levels + 1

    def test_each_bucket_has_its_own_norm(self) -> None:
        large = lg.Update({"a": torch.tensor([1e3, 1e3, 1e-3, 1e-3])})
        defense = StochasticQuantization(levels=1, bucket=2)
        found = defense.on_update(large, seeds=lg.Seeds(3)).tensors["a"]
        assert float(found[2:].abs().max()) < 1e-2

    @pytest.mark.parametrize("levels", [2, 3, 7, 127])
    def test_the_step_of_each_bucket_shows(self, levels: int) -> None:
        generator = torch.Generator().manual_seed(levels)
        update = lg.Update(
            {
                "weight": torch.randn(40, 50, generator=generator),
                "bias": torch.randn(10, generator=generator),
                "scale": torch.randn((), generator=generator),
                "zero": torch.zeros(3),
            }
        )
        defense = StochasticQuantization(levels=levels, bucket=512)
        found = defense.steps(defense.on_update(update, seeds=lg.Seeds(0)))
        weight = update.tensors["weight"].flatten().split(512)
        for known, bucket in zip(found["weight"].flatten().split(512), weight, strict=True):
            assert torch.allclose(known, bucket.norm() / levels)
        for name in ("bias", "scale"):
            assert torch.allclose(found[name], update.tensors[name].norm() / levels)
        assert bool(found["zero"].isinf().all())

    def test_an_update_s_two_levels_are_all_that_can_happen(self) -> None:
        """The two probabilities add up to 1. Impossible values cost much, and their cost has a slope."""
        fraction = torch.linspace(0.06, 0.94, 9)
        assert torch.allclose(
            (-surprisal(fraction)).exp() + (-surprisal(1 - fraction)).exp(), torch.ones(9)
        )
        dear = surprisal(torch.tensor([EDGE, 1.0, 1.5, 2.0]))
        assert bool((dear.diff() > 1).all())

    def test_who_knows_it_seeks_the_most_likely_batch(
        self, observe: Callable[..., lg.Observation]
    ) -> None:
        attack = lg.attacks.BayesOptimal(steps=60, descent="lbfgs")
        seen = observe(sigmoid_cnn(), wave(), under=StochasticQuantization(levels=3), labels=True)
        assert refusal(attack, seen) is None
        found = psnr(wave().inputs, attack(seen, seeds=lg.Seeds(0)).inputs)
        squares = lg.attacks.VanishingPrior(steps=60)(seen, seeds=lg.Seeds(0))
        assert float(found) > float(psnr(wave().inputs, squares.inputs)) + 1
        naive = observe(
            sigmoid_cnn(), wave(), under=StochasticQuantization(), labels=True, defense=False
        )
        assert "defense" in attack.requires - naive.knowledge.granted()

    def test_a_later_noise_or_a_mean_blurs_the_steps(
        self, observe: Callable[..., lg.Observation]
    ) -> None:
        """A later part or a mean leaves other values than multiples. Then the rounding is no longer known."""
        defense = StochasticQuantization()
        for held, last in (
            ((defense, GaussianNoise(std=0.1)), False),
            ((TopK(), defense), True),
            ((defense, TopK()), False),
        ):
            assert (effect(Chain(defenses=held), Rounding) is not None) == last
        mean = lg.Aggregator(clients=2, labels=True).observe(
            client(mlp(), defense=defense), images(2), seeds=lg.Seeds(0)
        )
        assert "does not round" in (refusal(lg.attacks.BayesOptimal(), mean) or "")

    def test_many_levels_change_little(self) -> None:
        found = self.quantized(StochasticQuantization(levels=10**6))
        assert torch.allclose(found, self.values, atol=1e-5)


def test_they_chain() -> None:
    chain = Chain(defenses=(Soteria(sparsity=0.5), TopK(sparsity=0.5), Sign()))
    model, batch = mlp(), images(2)
    plain, found = shared(model, batch), shared(model, batch, chain)
    assert pruned_columns(found, plain)
    for tensor in found.tensors.values():
        assert len(tensor.abs().unique()) <= 2
    assert (
        functional.cosine_similarity(
            *(torch.cat([t.flatten() for t in u.tensors.values()]) for u in (found, plain)), dim=0
        )
        > 0.5
    )


class TestDGC:
    def rounds(self, defense: lg.Defense, count: int = 6) -> tuple[list[Tensor], list[Tensors]]:
        """Return what is sent of random gradients in each round, and the memory after it."""
        generator = torch.Generator().manual_seed(0)
        sent, memories, memory = [], [], dict[str, Tensor]()
        for _ in range(count):
            update = lg.Update({"a": torch.randn(5, 8, generator=generator)})
            after, memory = defend_update(defense, update, memory, seeds=lg.Seeds(0))
            sent.append(after.tensors["a"])
            memories.append(memory)
        return sent, memories

    def test_the_first_round_is_top_k(self) -> None:
        update = lg.Update({"a": torch.randn(5, 8, generator=torch.Generator().manual_seed(0))})
        one, other = (
            d.on_update(update, seeds=lg.Seeds(0)).tensors["a"]
            for d in (DGC(sparsity=0.8), TopK(sparsity=0.8))
        )
        assert torch.equal(one, other)
        assert torch.equal(one, self.rounds(DGC(sparsity=0.8))[0][0])

    def test_all_is_sent_in_the_end(self) -> None:
        """Sent and waiting entries together are the sum of the momentum-corrected updates."""
        generator = torch.Generator().manual_seed(0)
        sent, memories = self.rounds(DGC(sparsity=0.8, momentum=0.9))
        velocity = corrected = torch.zeros(5, 8)
        for one in sent:
            velocity = 0.9 * velocity + torch.randn(5, 8, generator=generator)
            corrected = corrected + velocity
            velocity = velocity * (one == 0)
            assert int((one != 0).sum()) == 8
        total = torch.stack(sent).sum(dim=0) + memories[-1]["residual/a"]
        assert torch.allclose(total, corrected, atol=1e-5)
        assert torch.allclose(memories[-1]["momentum/a"], velocity, atol=1e-6)

    def test_without_sparsity_nothing_waits(self) -> None:
        _, memories = self.rounds(DGC(sparsity=0.0))
        assert not any(bool(t.any()) for t in memories[-1].values())

    def test_parts_of_a_chain_keep_their_own_memory(self) -> None:
        alone, memories = self.rounds(DGC(sparsity=0.8))
        chain = Chain(defenses=(TopK(sparsity=0.0), Chain(defenses=(DGC(sparsity=0.8),))))
        chained, held = self.rounds(chain)
        assert all(torch.equal(a, b) for a, b in zip(alone, chained, strict=True))
        assert set(held[-1]) == {"1/0/momentum/a", "1/0/residual/a"}
        assert torch.equal(held[-1]["1/0/residual/a"], memories[-1]["residual/a"])

    def test_the_memory_that_is_given_is_left(self) -> None:
        update = lg.Update({"a": torch.ones(4)})
        memory = {"momentum/a": torch.ones(4), "residual/a": torch.ones(4)}
        DGC(sparsity=0.5).remember(update, memory, seeds=lg.Seeds(0))
        assert all(torch.equal(t, torch.ones(4)) for t in memory.values())

    def test_who_knows_it_reads_more(self, observe: Callable[..., lg.Observation]) -> None:
        adaptive, naive = attacked(observe, mlp(), wave(), DGC(sparsity=0.9))
        assert adaptive > naive + 5


class TestLayerPruning:
    def test_the_longest_layers_are_withheld_whole(self) -> None:
        update = lg.Update(
            {
                "a.weight": torch.full((2, 2), 3.0),
                "a.bias": torch.zeros(2),
                "b.weight": torch.full((2, 2), 1.0),
                "b.bias": torch.full((2,), 9.0),
                "scale": torch.tensor(2.0),
            }
        )
        found = LayerPruning(fraction=0.4).on_update(update, seeds=lg.Seeds(0)).tensors
        assert [name for name, t in found.items() if bool(t.any())] == ["a.weight", "scale"]
        both = LayerPruning(fraction=0.7).on_update(update, seeds=lg.Seeds(0)).tensors
        assert [name for name, t in both.items() if bool(t.any())] == ["scale"]

    def test_layers_are_named(self) -> None:
        model, batch = mlp(), images(1)
        found = shared(model, batch, LayerPruning(fraction=0.0, named="[35]")).tensors
        assert {name for name, t in found.items() if bool(t.any())} == {"1.weight", "1.bias"}

    def test_a_name_that_no_layer_bears_is_told(self) -> None:
        with pytest.raises(lg.UpdateError, match="a layer among 1, 3, 5"):
            shared(mlp(), images(1), LayerPruning(named="head"))

    def test_who_knows_it_reads_more(self, observe: Callable[..., lg.Observation]) -> None:
        adaptive, naive = attacked(observe, sigmoid_cnn(), wave(), LayerPruning(fraction=0.4))
        assert adaptive > naive + 5


class TestOutpost:
    def test_pruning_alone_is_top_k(self) -> None:
        model, batch = mlp(), images(2)
        found = shared(model, batch, Outpost(noise=0.0)).tensors
        expected = shared(model, batch, TopK(sparsity=0.8)).tensors
        assert all(torch.equal(found[n], t) for n, t in expected.items())

    def test_noise_is_as_wide_as_the_layer_s_weights_and_where_most_is_told(self) -> None:
        model, batch = mlp(), images(2)
        plain = shared(model, batch).tensors
        found = shared(model, batch, Outpost(noise=2.0, sparsity=0.0)).tensors
        information = torch.cat([t.square().mean(dim=0).flatten() for t in plain.values()])
        bar = information.sort(descending=True).values[int(0.4 * len(information))]
        for name, weight in model.named_parameters():
            noise = found[name] - plain[name]
            noised = (plain[name].square().mean(dim=0) > bar).expand_as(noise)
            assert bool((noise != 0).eq(noised).all())
            if int(noised.sum()) > 500:
                expected = 2 * float(weight.detach().var())
                assert float(noise[noised].std()) == pytest.approx(expected, rel=0.1)

    def test_it_acts_less_often_as_training_goes_on(self) -> None:
        model, batch = mlp(), images(1)
        plain = shared(model, batch).tensors[LAST]
        late = Outpost(decay=1.0, iteration=3)
        acted = [
            not torch.equal(shared(model, batch, late, root=root).tensors[LAST], plain)
            for root in range(200)
        ]
        # Four standard errors of 200 draws of probability 1/4.
        assert sum(acted) / 200 == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 200) ** 0.5)

    def test_weight_differences_are_refused(self) -> None:
        with pytest.raises(lg.SpecificationError, match="one gradient"):
            shared(mlp(), images(1), Outpost(), training=lg.FedAvg())

    def test_who_knows_it_reads_more(self, observe: Callable[..., lg.Observation]) -> None:
        adaptive, naive = attacked(observe, mlp(), wave(), Outpost())
        assert adaptive > naive + 4

    def test_noise_alone_is_not_believed_and_what_stands_out_of_it_is(self) -> None:
        generator = torch.Generator().manual_seed(0)
        seen = torch.zeros(100, 3)
        seen[:, 0] = 0.01 * torch.randn(100, generator=generator)
        seen[:20, 0] += 1.0
        seen[:20, 1] = 0.02
        found = Outpost().believed(lg.Update({"a": seen})).tensors["a"]
        assert torch.equal(found[:20, :2], seen[:20, :2])
        assert not bool(found[20:].any())
        assert torch.equal(
            Outpost(sparsity=0.2).believed(lg.Update({"a": seen})).tensors["a"], seen
        )


class TestDPSGD:
    def by_hand(self, model: nn.Module, batch: lg.Batch, norm: float) -> Tensors:
        """Return the mean of the examples' clipped gradients, computed by torch.func."""
        parameters = {n: p.detach() for n, p in model.named_parameters()}

        def loss(parameters: Tensors, x: Tensor, y: Tensor) -> Tensor:
            output = torch.func.functional_call(model, parameters, (x[None],))
            return functional.cross_entropy(output, y[None])

        each = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(
            parameters, batch.inputs, batch.targets
        )
        flat = torch.cat([t.flatten(1) for t in each.values()], dim=1)
        scale = (norm / flat.norm(dim=1)).clamp(max=1)
        return {n: torch.einsum("b,b...->...", scale, t) / len(batch) for n, t in each.items()}

    @pytest.mark.parametrize("norm", [0.5, 2.5, 100.0])
    def test_without_noise_is_the_mean_of_clipped_gradients(self, norm: float) -> None:
        model, batch = sigmoid_cnn(), images(3)
        found = shared(model, batch, DPSGD(max_norm=norm, noise_multiplier=0.0)).tensors
        expected = self.by_hand(model, batch, norm)
        assert all(torch.allclose(found[n], t, atol=1e-6) for n, t in expected.items())
        plain = shared(model, batch).tensors
        same = all(torch.allclose(found[n], t, atol=1e-6) for n, t in plain.items())
        assert same == (norm == 100.0)

    @pytest.mark.parametrize("count", [1, 4])
    def test_noise_is_the_less_the_larger_the_batch(self, count: int) -> None:
        model, batch = mlp(), images(count)
        defense = DPSGD(max_norm=2.0, noise_multiplier=3.0)
        quiet = shared(model, batch, DPSGD(max_norm=2.0, noise_multiplier=0.0)).tensors
        one, same, other = (shared(model, batch, defense, root=root).tensors for root in (0, 0, 1))
        noise = torch.cat([(one[n] - t).flatten() for n, t in quiet.items()])
        assert float(noise.std()) == pytest.approx(6 / count, rel=0.05)
        assert mean_noise(Chain(defenses=(defense,)), [count]) == Noise(std=6 / count)
        assert effect(defense, Noise) is None
        assert all(torch.equal(one[n], same[n]) for n in one)
        assert not any(torch.equal(one[n], other[n]) for n in one)

    def test_weight_differences_and_batch_norm_are_refused(self) -> None:
        with pytest.raises(lg.SpecificationError, match="clipping and gaussian_noise"):
            shared(mlp(), images(2), DPSGD(), training=lg.FedAvg())
        normed = nn.Sequential(
            nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 4)
        )
        with pytest.raises(lg.ModelError, match="BatchNorm in train mode"):
            shared(normed, images(2), DPSGD())

    def test_the_clipped_mean_is_the_gradient_of_a_scalar_and_can_be_differentiated_forward(
        self,
    ) -> None:
        model, batch = sigmoid_cnn(), images(3)
        operator = DPSGD(max_norm=0.5).simulated(lg.FedSGD())
        assert isinstance(operator, SingleGradient)
        parameters = {n: p.detach() for n, p in model.named_parameters()}

        def gradient(inputs: Tensor) -> Tensors:
            def scalar(held: Tensors) -> Tensor:
                loss = functional.cross_entropy
                return operator.scalar(model, loss, held, inputs, batch.targets)

            found: Tensors = torch.func.grad(scalar)(parameters)
            return found

        along = torch.randn(batch.inputs.shape, generator=torch.Generator().manual_seed(0))
        value, slope = torch.func.jvp(gradient, (batch.inputs,), (along,))
        expected = self.by_hand(model, batch, 0.5)
        moved = self.by_hand(model, lg.Batch(batch.inputs + 1e-2 * along, batch.targets), 0.5)
        back = self.by_hand(model, lg.Batch(batch.inputs - 1e-2 * along, batch.targets), 0.5)
        for name, t in expected.items():
            assert torch.allclose(value[name], t, atol=1e-6)
            assert slope[name].dtype == torch.float32
            assert torch.allclose(slope[name], (moved[name] - back[name]) / 2e-2, atol=2e-3)

    def test_behind_an_aggregation_each_client_clips(self) -> None:
        defense = DPSGD(max_norm=0.5)
        inner, clipped = lg.FedSGD(), defense.simulated(lg.FedSGD())
        both = Aggregated(training=inner, clients=2, each=(inner, inner))
        assert defense.simulated(both) == Aggregated(
            training=clipped, clients=2, each=(clipped, clipped)
        )

    def test_who_knows_it_simulates_the_clipping(
        self, observe: Callable[..., lg.Observation]
    ) -> None:
        defense = DPSGD(max_norm=0.5, noise_multiplier=0.0)
        known = observe(mlp(), images(2), under=defense)
        assert known.training == defense.simulated(lg.FedSGD())
        assert observe(mlp(), images(2), under=defense, defense=False).training == lg.FedSGD()

    def test_who_knows_it_reads_more(self, observe: Callable[..., lg.Observation]) -> None:
        both = lg.Batch(torch.cat([wave(0.0).inputs, wave(2.0).inputs]), torch.tensor([0, 1]))
        defense = DPSGD(max_norm=0.1, noise_multiplier=1e-3)
        adaptive, naive = attacked(observe, mlp(), both, defense)
        assert adaptive > naive + 1

    def test_its_noise_decides_the_most_likely_batch(
        self, observe: Callable[..., lg.Observation]
    ) -> None:
        attack = lg.attacks.BayesOptimal(steps=2)
        noisy, quiet = (
            observe(mlp(), images(2), under=DPSGD(noise_multiplier=m), labels=True)
            for m in (1e-2, 0.0)
        )
        assert refusal(attack, noisy) is None
        assert "adds no noise" in (refusal(attack, quiet) or "")
        assert attack(noisy, seeds=lg.Seeds(0)).inputs.shape == (2, 1, 8, 8)


class TestEpsilon:
    def test_without_noise_there_is_none(self) -> None:
        defense = DPSGD(noise_multiplier=0.0)
        assert defense.epsilon(steps=1, sample_rate=0.1, delta=1e-5) == math.inf

    def test_without_opacus_it_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "opacus.accountants", None)
        with pytest.raises(lg.SpecificationError, match=r"leakgauge\[dp\]"):
            DPSGD().epsilon(steps=1, sample_rate=0.1, delta=1e-5)

    @pytest.mark.parametrize("steps", [1, 16])
    def test_of_whole_batches_it_is_near_the_closed_form(self, steps: int) -> None:
        """The bound of Mironov 2017 is T / (2 s^2) + sqrt(2 T log(1 / delta)) / s. The accountant is tighter."""
        pytest.importorskip("opacus")
        bound = steps / (2 * 8.0**2) + (2 * steps * math.log(1e5)) ** 0.5 / 8.0
        found = DPSGD(noise_multiplier=8.0).epsilon(steps=steps, sample_rate=1.0, delta=1e-5)
        assert 0.7 * bound < found <= bound

    def test_sampling_amplifies(self) -> None:
        pytest.importorskip("opacus")
        whole, sampled = (
            DPSGD().epsilon(steps=10, sample_rate=rate, delta=1e-5) for rate in (1.0, 0.01)
        )
        assert sampled < whole / 5

    def test_per_example_gradients_are_those_of_opacus(self) -> None:
        opacus = pytest.importorskip("opacus")
        model, batch = mlp(), images(3)
        sampled = opacus.GradSampleModule(mlp(), loss_reduction="mean")
        functional.cross_entropy(sampled(batch.inputs), batch.targets).backward()
        for i in range(3):
            one = lg.Batch(batch.inputs[i : i + 1], batch.targets[i : i + 1])
            own = shared(model, one, DPSGD(max_norm=1e9, noise_multiplier=0.0)).tensors
            for name, parameter in sampled._module.named_parameters():
                assert torch.allclose(own[name], parameter.grad_sample[i], atol=1e-6)
