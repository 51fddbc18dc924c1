"""Each defense of the finished update against its closed form."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import images, mlp
from torch import Tensor
from torch.nn import functional

import leakgauge as lg
from leakgauge.defenses import (
    Clipping,
    GaussianNoise,
    LaplacianNoise,
    Quantization,
    RandomSparsification,
    TopK,
)


def raw(dtype: torch.dtype = torch.float32) -> lg.Update:
    """Return the update of three examples on a small network. No entry is exactly zero."""
    batch = images(3)
    update = lg.FedSGD()(mlp(), functional.cross_entropy, batch.inputs, batch.targets)
    generator = torch.Generator().manual_seed(1)
    return lg.Update(
        {
            n: (t + 1e-4 * torch.randn(t.shape, generator=generator)).to(dtype)
            for n, t in update.items()
        }
    )


class TestClipping:
    def test_is_as_long_as_the_bound_and_points_where_it_did(self) -> None:
        update = raw()
        found = Clipping(norm=0.01).on_update(update, seeds=lg.Seeds(0))
        flat, clipped = (
            torch.cat([t.flatten() for t in u.tensors.values()]) for u in (update, found)
        )
        assert float(clipped.norm()) == pytest.approx(0.01, rel=1e-5)
        assert float(functional.cosine_similarity(flat, clipped, dim=0)) == pytest.approx(1.0)

    def test_shorter_updates_are_left(self) -> None:
        update = raw()
        found = Clipping(norm=1e3).on_update(update, seeds=lg.Seeds(0))
        assert all(torch.equal(found.tensors[n], t) for n, t in update.tensors.items())


class TestNoise:
    """Each estimate uses 100,000 draws, and lies within a few standard errors."""

    zero = lg.Update({"a": torch.zeros(400, 250)})

    def draws(self, defense: lg.Defense) -> Tensor:
        return defense.on_update(self.zero, seeds=lg.Seeds(0)).tensors["a"].double().flatten()

    @pytest.mark.parametrize("kind", [GaussianNoise, LaplacianNoise])
    @pytest.mark.parametrize("std", [1e-3, 0.5])
    def test_mean_and_standard_deviation(
        self, kind: type[GaussianNoise | LaplacianNoise], std: float
    ) -> None:
        found = self.draws(kind(std=std))
        assert float(found.std()) == pytest.approx(std, rel=0.02)
        assert abs(float(found.mean())) < 4 * std / math.sqrt(len(found))

    def kurtosis(self, found: Tensor) -> float:
        return float(found.pow(4).mean() / found.square().mean().square())

    def test_tails(self) -> None:
        """The kurtosis E x^4 / (E x^2)^2 is 3 for a Gaussian and 6 for a Laplacian."""
        assert self.kurtosis(self.draws(GaussianNoise(std=1.0))) == pytest.approx(3, abs=0.1)
        assert self.kurtosis(self.draws(LaplacianNoise(std=1.0))) == pytest.approx(6, abs=0.5)

    def test_a_laplacian_s_mean_absolute_value(self) -> None:
        found = self.draws(LaplacianNoise(std=1.0))
        assert float(found.abs().mean()) == pytest.approx(1 / math.sqrt(2), rel=0.02)

    @pytest.mark.parametrize("kind", [GaussianNoise, LaplacianNoise])
    def test_it_is_added(self, kind: type[GaussianNoise | LaplacianNoise]) -> None:
        ones = lg.Update({"a": torch.ones(400, 250)})
        found = kind(std=0.5).on_update(ones, seeds=lg.Seeds(0)).tensors["a"]
        assert torch.allclose(found.double().flatten() - 1, self.draws(kind(std=0.5)), atol=1e-6)


class TestQuantization:
    @pytest.mark.parametrize(("name", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
    def test_floats_are_torch_s_casts(self, name: str, dtype: torch.dtype) -> None:
        update = raw()
        found = Quantization(format=name).on_update(update, seeds=lg.Seeds(0))  # type: ignore[arg-type]
        changed = False
        for n, tensor in update.tensors.items():
            assert torch.equal(found.tensors[n], tensor.to(dtype).float())
            changed = changed or not torch.equal(found.tensors[n], tensor)
        assert changed

    def test_fp16_saturates(self) -> None:
        large = lg.Update({"a": torch.tensor([1e6, -1e30, 65504.0, 2.0])})
        found = Quantization(format="fp16").on_update(large, seeds=lg.Seeds(0)).tensors["a"]
        assert found.tolist() == [65504.0, -65504.0, 65504.0, 2.0]

    def test_int8_has_at_most_255_levels_half_a_step_away(self) -> None:
        generator = torch.Generator().manual_seed(0)
        tensor = torch.randn(100, 100, generator=generator)
        found = Quantization(format="int8").on_update(lg.Update({"a": tensor}), seeds=lg.Seeds(0))
        step = float(tensor.abs().max()) / 127
        levels = (found.tensors["a"].double() / step).round()
        assert len(levels.unique()) <= 255
        assert levels.abs().max() == 127
        assert float((found.tensors["a"] - tensor).abs().max()) <= step / 2 * (1 + 1e-5)
        assert float((found.tensors["a"] - tensor).abs().max()) > step / 4

    def test_int8_scales_each_tensor_by_its_own(self) -> None:
        pair = lg.Update({"a": torch.tensor([1.0, 0.3]), "b": torch.tensor([1e-6, 0.3e-6])})
        found = Quantization(format="int8").on_update(pair, seeds=lg.Seeds(0)).tensors
        assert found["b"].tolist() == pytest.approx((found["a"] * 1e-6).tolist(), rel=1e-5)
        assert found["b"][0] > 0

    def test_int8_is_symmetric(self) -> None:
        update = raw()
        negative = update.map(torch.neg)
        one, other = (
            Quantization(format="int8").on_update(u, seeds=lg.Seeds(0)).tensors
            for u in (update, negative)
        )
        assert all(torch.equal(one[n], -other[n]) for n in one)


class TestSparsification:
    @pytest.mark.parametrize("sparsity", [0.2, 0.5, 0.9, 0.99])
    def test_top_k_keeps_the_largest(self, sparsity: float) -> None:
        update = raw()
        found = TopK(sparsity=sparsity).on_update(update, seeds=lg.Seeds(0)).tensors
        for name, tensor in update.tensors.items():
            kept = found[name] != 0
            assert int((~kept).sum()) == int(sparsity * tensor.numel())
            assert torch.equal(found[name][kept], tensor[kept])
            if not kept.all():
                assert tensor[kept].abs().min() >= tensor[~kept].abs().max()

    def test_ties_are_broken_and_the_share_stays_exact(self) -> None:
        found = TopK(sparsity=0.5).on_update(lg.Update({"a": torch.ones(10)}), seeds=lg.Seeds(0))
        assert float(found.tensors["a"].sum()) == 5

    @pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.9])
    def test_a_random_share_is_zeroed(self, sparsity: float) -> None:
        ones = lg.Update({"a": torch.ones(300, 300)})
        found = RandomSparsification(sparsity=sparsity).on_update(ones, seeds=lg.Seeds(0))
        tensor = found.tensors["a"]
        # Four standard errors of a fraction of 90,000 entries.
        error = 4 * math.sqrt(sparsity * (1 - sparsity) / tensor.numel())
        assert float((tensor == 0).float().mean()) == pytest.approx(sparsity, abs=error)
        assert set(tensor.flatten().tolist()) == {0.0, 1.0}  # Kept entries are not rescaled.

    @pytest.mark.parametrize("kind", [TopK, RandomSparsification])
    def test_sparsity_zero_is_the_identity(self, kind: type[TopK | RandomSparsification]) -> None:
        update = raw()
        found = kind(sparsity=0.0).on_update(update, seeds=lg.Seeds(0)).tensors
        assert all(torch.equal(found[n], t) for n, t in update.tensors.items())
