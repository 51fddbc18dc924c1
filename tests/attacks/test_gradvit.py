"""GradViT: its schedule, patch prior and patch sizes. Also fused attention and networks of Hugging Face."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import images, mlp, psnr, refusal
from torch import Tensor, nn
from torch.nn import functional

import leakgauge as lg
from leakgauge import inversion
from leakgauge.attacks import GradViT
from leakgauge.inversion.objectives.patches import patch_size
from leakgauge.inversion.simulation import attention
from leakgauge.metrics import BLOCKINESS_CEILING, blockiness

Observe = Callable[..., lg.Observation]
DOMAIN = lg.ImageDomain(1, 8, 8)


def transformer(**options: object) -> nn.Module:
    """Return a vision transformer with patches of 2 pixels."""
    given = {"patch": 2, "dim": 24, "heads": 2, "depth": 1, **options}
    return lg.models.build(lg.models.vit, DOMAIN, 4, **given)


class Fused(nn.Module):
    """A network with one attention by PyTorch's fused kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, 8, 2, stride=2)
        self.tokens = nn.Linear(8, 24)
        self.head = nn.Linear(8 * 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.tokens(self.embed(x).flatten(2).mT)[:, None]
        q, k, v = tokens.chunk(3, dim=-1)
        out: Tensor = self.head(functional.scaled_dot_product_attention(q, k, v).flatten(1))
        return out


def fused() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Fused()


def blocks(side: int, count: int, *, channels: int = 2) -> Tensor:
    """Return two images with `count` patches a side. All pixels of a patch have one value."""
    generator = torch.Generator().manual_seed(3)
    values = torch.rand(2, channels, count, count, generator=generator)
    return values.repeat_interleave(side, -1).repeat_interleave(side, -2)


def prior(unit: Tensor, size: int) -> Tensor:
    return inversion.PatchBorders(size)(inversion.Candidate(unit, torch.zeros(2), {}, {}))


class TestPatchBorders:
    def test_it_is_the_paper_formula_with_means(self) -> None:
        unit = torch.rand(2, 3, 6, 9, generator=torch.Generator().manual_seed(0))
        rows = [(unit[:, :, 3] - unit[:, :, 2]).square().mean((1, 2)).sqrt()]
        columns = [(unit[..., k] - unit[..., k - 1]).square().mean((1, 2)).sqrt() for k in (3, 6)]
        expected = torch.stack(rows).mean() + torch.stack(columns).mean()
        assert prior(unit, 3) == pytest.approx(float(expected), rel=1e-5)

    def test_what_happens_inside_patches_does_not_count(self) -> None:
        unit = torch.zeros(2, 1, 8, 8)
        unit[..., 1::4, 1::4] = 1.0
        assert float(prior(unit, 4)) < 1e-6
        assert float(prior(blocks(4, 2), 4)) > 0.1

    def test_borders_end_by_descent_and_images_are_each_their_own(self) -> None:
        unit = blocks(4, 2).requires_grad_()
        (slope,) = torch.autograd.grad(prior(unit, 4), unit)
        assert (slope[..., 3:5, :] != 0).all()
        assert (slope[..., 1:3, 1:3] == 0).all()
        apart = [prior(unit[i : i + 1], 4) for i in range(2)]
        assert torch.allclose(torch.stack(apart).mean(), prior(unit, 4))
        flat = torch.zeros(1, 1, 8, 8, requires_grad=True)
        assert torch.autograd.grad(prior(flat, 4), flat)[0].isfinite().all()

    def test_a_strip_of_patches_has_borders_one_way(self) -> None:
        unit = torch.cat([torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)], -1)
        assert float(prior(unit, 4)) == pytest.approx(1.0)

    @pytest.mark.parametrize("size", [3, 8])
    def test_patches_that_do_not_fit(self, observe: Observe, size: int) -> None:
        reason = refusal(GradViT(patch=size), observe(mlp(), images(1), labels=True))
        assert reason is not None
        assert f"patches of {size} pixels" in reason

    def test_tables_have_none(self) -> None:
        domain = lg.TableDomain.from_ranges(["a", "b"], [0, 0], [1, 2])
        owner = lg.Client(model=mlp(2), loss=functional.cross_entropy, domain=domain, classes=4)
        batch = lg.Batch(torch.tensor([[0.5, 1.0]]), torch.tensor([1]))
        observation = lg.Server(labels=True).observe(owner, batch, seeds=lg.Seeds(0))
        assert "table" in (inversion.PatchBorders(1).inapplicable(observation) or "")
        assert refusal(GradViT(), observation) is not None
        bare = GradViT(tv=0, patch_prior=0, group="none")
        assert refusal(bare, observation) is None


class TestPatchSize:
    def test_from_the_convolution(self) -> None:
        assert patch_size(transformer(patch=4), 1) == 4
        # This convolution halves features inside the network, so its stride is not a patch size.
        assert isinstance(
            patch_size(nn.Sequential(nn.Conv2d(8, 8, 2, stride=2)), 1), lg.Inapplicable
        )

    def test_from_what_a_module_or_its_config_states(self) -> None:
        stated = nn.Linear(4, 4)
        stated.patch_size = (4, 4)  # type: ignore[assignment]
        assert patch_size(nn.Sequential(stated), 1) == 4
        stated.patch_size = (4, 2)  # type: ignore[assignment]
        assert "4 x 2" in str(patch_size(stated, 1))

    def test_where_it_is_not_known_the_reason_asks_for_it(self, observe: Observe) -> None:
        observation = observe(mlp(), images(1), labels=True)
        assert "set patch = P" in (refusal(GradViT(), observation) or "")
        assert refusal(GradViT(patch=2), observation) is None
        assert refusal(GradViT(patch_prior=0), observation) is None
        two = nn.Sequential(nn.Conv2d(1, 4, 2, stride=2), nn.Conv2d(1, 4, 4, stride=4))
        assert "2 x 2 and 4 x 4" in str(patch_size(two, 1))


class TestSchedule:
    def weights(self, observation: lg.Observation, progress: float) -> list[float]:
        attack = GradViT(gradient=4.0, tv=1.0, l2=2.0, patch_prior=3.0, start=0.5, reduced=0.25)
        objective = attack.matching(observation, inversion.Known()).objective
        return [weight for weight, _ in objective.parts(progress)]

    def test_the_gradient_alone_then_priors_and_less_of_it(self, observe: Observe) -> None:
        observation = observe(transformer(), images(2), labels=True)
        assert self.weights(observation, 0.0) == [4, 0, 0, 0]
        assert self.weights(observation, 0.49) == [4, 0, 0, 0]
        assert self.weights(observation, 0.5) == [1, 1, 2, 3]
        assert self.weights(observation, 1.0) == [1, 1, 2, 3]

    def test_terms(self, observe: Observe) -> None:
        observation = observe(transformer(), images(2), labels=True)
        assert "BatchStatistics" not in repr(GradViT().terms(observation))
        proxy = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).eval()
        whole = repr(GradViT(proxy=proxy).terms(observation))
        for kind in ("LayerNorms", "TotalVariation", "Energy", "BatchStatistics", "PatchBorders"):
            assert kind in whole
        assert "PatchBorders(size=2)" in whole
        assert len(GradViT(tv=0, l2=0, patch_prior=0).terms(observation)) == 1

    def test_the_update_is_matched(self, observe: Observe) -> None:
        observation = observe(transformer(), images(1), labels=True)
        attack = GradViT(
            steps=200, restarts=1, group="none", tv=0, l2=0, patch_prior=0, reduced=1.0
        )
        guess = attack(observation, seeds=lg.Seeds(0))
        assert guess.residual is not None
        assert guess.residual < 0.05

    def test_the_patch_prior_takes_blocks_away(self, observe: Observe) -> None:
        observation = observe(transformer(patch=4), images(2), labels=True)
        bare = GradViT(
            steps=60, lr=0.3, restarts=1, group="none", tv=0, l2=0, patch_prior=0, start=0.2
        )
        found = [
            blockiness(attack(observation, seeds=lg.Seeds(0)).inputs, patch=4).mean()
            for attack in (bare, replace(bare, patch_prior=10.0))
        ]
        assert found[1] < found[0] / 2

    def test_over_cosines_the_range_is_a_term(self, observe: Observe) -> None:
        observation = observe(transformer(), images(1), labels=True)
        attack = GradViT(
            steps=100,
            restarts=1,
            group="none",
            distance="relative",
            coordinates="cosines",
            start=0.9,
        )
        assert "InRange" in repr(attack.terms(observation))
        matching = attack.matching(observation, inversion.Known())
        assert isinstance(matching.parametrization, inversion.Spectral)
        guess = attack(observation, seeds=lg.Seeds(0))
        assert guess.residual is not None
        assert guess.residual < 0.2

    def test_its_name(self) -> None:
        from leakgauge.audit.resolve import ATTACKS

        assert ATTACKS["grad_vit"] is GradViT


class TestFusedAttention:
    @pytest.mark.parametrize("name", ["SecondOrder", "InvertingGradients", "GradViT"])
    def test_searches_write_it_out_and_say_so(self, observe: Observe, name: str) -> None:
        batch = lg.Batch(images(1).inputs, torch.tensor([1]))
        attack = {
            "SecondOrder": lg.attacks.SecondOrder(warm=1, iterations=3, stages=1),
            "InvertingGradients": lg.attacks.InvertingGradients(steps=60, tv=0),
            "GradViT": GradViT(steps=60, restarts=2, every=5),
        }[name]
        guess = attack(observe(fused(), batch, labels=True), seeds=lg.Seeds(0))
        assert attention.NOTE in guess.notes
        assert guess.residual is not None
        assert guess.residual < 0.5

    def test_the_kernel_alone_has_no_second_derivative(self, observe: Observe) -> None:
        """This is why the engine writes attention out. If PyTorch gets a second derivative, it may stop."""
        observation = observe(fused(), images(1), labels=True)
        unit = images(1).inputs.requires_grad_()
        update = observation.training(
            observation.model, observation.loss, unit, torch.tensor([1]), create_graph=True
        )
        with pytest.raises(RuntimeError, match="not implemented"):
            torch.autograd.grad(update["embed.weight"].sum(), unit)

    def test_other_networks_are_not_told_of_it(self, observe: Observe) -> None:
        observation = observe(transformer(), images(1), labels=True)
        assert not attention.fused(observation)
        assert attention.fused(observe(fused(), images(1)))


class TestBlockiness:
    def test_an_image_without_blocks_has_one(self) -> None:
        noise = torch.rand(3, 2, 64, 64, generator=torch.Generator().manual_seed(0))
        assert torch.allclose(blockiness(noise, patch=4), torch.ones(3).double(), atol=0.05)
        photos = lg.data.photos().inputs[:8]
        assert float(blockiness(photos, patch=4).mean()) == pytest.approx(1, abs=0.1)
        assert blockiness(torch.full((1, 1, 8, 8), 0.3), patch=2).item() == 1

    def test_it_is_the_ratio_of_means(self) -> None:
        ramp = torch.tensor([0.0, 0.1, 0.5, 0.6]).expand(1, 1, 2, 4)
        # Across the border, differences are 0.4. Inside patches, four are 0.1 and four are 0.
        assert blockiness(ramp, patch=2).item() == pytest.approx(0.4 / 0.05)

    def test_each_image_has_its_own(self) -> None:
        mixed = torch.cat(
            [blocks(4, 2)[:1], torch.rand(1, 2, 8, 8), torch.full((1, 2, 8, 8), torch.nan)]
        )
        found = blockiness(mixed, patch=4)
        assert found[0] == BLOCKINESS_CEILING
        assert 0.3 < found[1] < 3
        assert found[2] == BLOCKINESS_CEILING

    @pytest.mark.parametrize(
        ("shape", "patch"),
        [((1, 4), 2), ((1, 1, 4, 4), 3), ((1, 1, 4, 4), 1), ((1, 1, 4, 4), 4)],
    )
    def test_refuses(self, shape: tuple[int, ...], patch: int) -> None:
        with pytest.raises(lg.DataError, match="blockiness"):
            blockiness(torch.zeros(shape), patch=patch)


class TestHuggingFace:
    def build(self, family: str, **options: object) -> nn.Module:
        pytest.importorskip("transformers", reason="the extra `vision` is not installed")
        given = {"family": family, "patch": 2, "dim": 32, "heads": 2, "depth": 2, **options}
        return lg.models.build(lg.models.hugging_face_vit, DOMAIN, 4, **given)

    @pytest.mark.parametrize("family", ["vit", "deit"])
    def test_attacked_as_it_is(self, observe: Observe, family: str) -> None:
        model = self.build(family)
        assert patch_size(model, 1) == 2
        batch = lg.Batch(images(1).inputs, torch.tensor([3]))
        observation = observe(model, batch, labels=True)
        few = GradViT(steps=6, restarts=2, every=2)
        assert few(observation, seeds=lg.Seeds(0)).residual is not None
        guess = lg.attacks.April(equations="embedding")(observation, seeds=lg.Seeds(0))
        assert guess.status is lg.Status.CERTIFIED
        assert psnr(batch.inputs, guess.inputs).min() > 60

    def test_fused_attention_too(self, observe: Observe) -> None:
        model = self.build("vit")
        model.network.set_attn_implementation("sdpa")  # type: ignore[operator, union-attr]
        guess = GradViT(steps=6, restarts=1)(
            observe(model, images(1), labels=True), seeds=lg.Seeds(0)
        )
        assert attention.NOTE in guess.notes

    def test_from_a_folder(self, tmp_path: Path) -> None:
        model = self.build("deit")
        model.network.save_pretrained(tmp_path)  # type: ignore[operator, union-attr]
        again = self.build("deit", folder=str(tmp_path))
        assert torch.equal(model(images(2).inputs), again(images(2).inputs))
        with pytest.raises(lg.ModelError, match="classes"):
            lg.models.hugging_face_vit(
                lg.ImageDomain(1, 8, 8), 3, family="deit", folder=str(tmp_path)
            )

    def test_mistakes(self) -> None:
        for options in ({"dim": 25}, {"patch": 3}, {"family": "swin"}):
            with pytest.raises(lg.ModelError):
                self.build(**{"family": "vit", **options})

    def test_without_the_package_the_remedy_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def missing(name: str) -> None:
            raise ModuleNotFoundError(f"No module named {name!r}")

        monkeypatch.setattr(importlib, "import_module", missing)
        with pytest.raises(lg.ModelError, match=r"leakgauge\[vision\]"):
            lg.models.hugging_face_vit(DOMAIN, 4)
