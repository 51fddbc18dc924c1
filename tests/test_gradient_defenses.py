"""Defenses of the gradient, each against its closed form, and what the adversary gains who knows it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from conftest import client, images, mlp, psnr, sigmoid_cnn
from torch import Tensor, nn
from torch.nn import functional

import leakgauge as lg
from leakgauge.defenses import Chain, Sign, Soteria, StochasticQuantization, TopK
from leakgauge.defenses.soteria import tellings

LAST = "5.weight"
"""The last linear layer of `mlp`."""


def wave(phase: float = 0.0, *, label: int = 0) -> lg.Batch:
    """One smooth image."""
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
    """What a client under the defense shares."""
    return client(model, defense=defense, training=training).share(
        model, batch, seeds=lg.Seeds(root)
    )


def pruned_columns(update: lg.Update, plain: lg.Update, name: str = LAST) -> set[int]:
    """The columns that a defense zeroed."""
    gone = (update.tensors[name] == 0).all(dim=0) & (plain.tensors[name] != 0).any(dim=0)
    return set(gone.nonzero().flatten().tolist())


def attacked(
    observe: Callable[..., lg.Observation], model: nn.Module, batch: lg.Batch, defense: lg.Defense
) -> tuple[float, float]:
    """PSNR of the same attack by who knows the defense and by who does not."""
    attack = lg.attacks.InvertingGradients(steps=200)
    found = [
        attack(
            observe(model, batch, under=defense, defense=known, labels=True), seeds=lg.Seeds(0)
        ).inputs
        for known in (True, False)
    ]
    told, untold = (float(psnr(batch.inputs, guess).mean()) for guess in found)
    return told, untold


class TestSoteria:
    def test_the_ratio_is_that_of_the_jacobian(self) -> None:
        """|r_i| / ||dr_i/dX||, against the whole Jacobian of the features."""
        model, batch = mlp(), images(3)
        head = nn.Sequential(*list(model)[:-1])  # type: ignore[call-overload]
        jacobian = torch.autograd.functional.jacobian(head, batch.inputs)
        each = torch.stack([jacobian[b, :, b].flatten(1) for b in range(3)])  # (B, n, pixels)
        lengths, features = each.norm(dim=2), head(batch.inputs)
        expected = torch.where(features > 0, features / lengths, 0.0).mean(dim=0)
        found = tellings(model, model.get_submodule("5"), batch.inputs)  # type: ignore[arg-type]
        assert torch.allclose(found, expected, rtol=1e-4)

    def test_the_columns_that_tell_most_are_zero_and_all_else_is_left(self) -> None:
        model, batch = mlp(), images(1)
        plain, found = shared(model, batch), shared(model, batch, Soteria(sparsity=0.25))
        ratio = tellings(model, model.get_submodule("5"), batch.inputs)  # type: ignore[arg-type]
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
        told, untold = attacked(observe, sigmoid_cnn(), wave(), Soteria(sparsity=0.6))
        assert told > untold + 3


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
        told, untold = attacked(observe, mlp(), wave(1.0, label=1), Sign())
        assert told > untold + 1


class TestStochasticQuantization:
    values = torch.randn(6, 7, generator=torch.Generator().manual_seed(0))

    def quantized(self, defense: StochasticQuantization, root: int = 0) -> Tensor:
        update = lg.Update({"a": self.values})
        return defense.on_update(update, seeds=lg.Seeds(root)).tensors["a"]

    def test_is_right_on_average(self) -> None:
        defense = StochasticQuantization(levels=2, bucket=20)
        draws = torch.stack([self.quantized(defense, root) for root in range(2000)])
        error = draws.mean(dim=0) - self.values
        # Four standard errors of 2000 draws, at most half a level apart from their mean.
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
