"""Defenses of the data: ATS against Pillow, its search, input dropout, and the attacks that undo them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import images, mlp, psnr, refusal, sigmoid_cnn
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor
from torch.nn import functional

import leakgauge as lg
from leakgauge.attacks.inpainting import fill_erased, find_erased
from leakgauge.attacks.restoration import TYPICAL, carry_back, restore, statistics
from leakgauge.attacks.transformation_inversion import undo_transformations
from leakgauge.core import DataError, ErasedPatches, SpecificationError, TransformedExamples, effect
from leakgauge.defenses import ATS, Chain, Mixup, PatchDropout, PixelDropout, TopK
from leakgauge.defenses.ats import LIBRARY, Transformation
from leakgauge.defenses.ats_search import ATSSearch, accuracy_score, privacy_score
from leakgauge.defenses.image_operations import OPERATIONS

BLACK = (0, 0, 0)


def photographs(count: int) -> Tensor:
    """Return color images (B, 3, 32, 32) of 8-bit levels, in float64."""
    return (lg.data.photos().inputs[:count].double() * 255).round() / 255


def by_pillow(name: str, magnitude: float, image: Image.Image) -> Image.Image:
    """Apply Pillow's operation of that name, called as AutoAugment calls it."""
    side, affine = image.size[0], Image.Transform.AFFINE
    rows = {
        "shear_x": (1, magnitude, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, magnitude, 1, 0),
        "translate_x": (1, 0, magnitude * side, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, magnitude * side),
    }
    if name in rows:
        cubic = Image.Resampling.BICUBIC if "shear" in name else Image.Resampling.NEAREST
        return image.transform(image.size, affine, rows[name], cubic, fillcolor=BLACK)
    if name == "rotate":
        return image.rotate(magnitude, fillcolor=(128, 128, 128))
    if name in ("color", "contrast", "sharpness", "brightness"):
        enhancer = getattr(ImageEnhance, name.title())(image)
        changed: Image.Image = enhancer.enhance(1 + magnitude)
        return changed
    if name == "posterize":
        return ImageOps.posterize(image, round(magnitude))
    if name == "solarize":
        return ImageOps.solarize(image, int(magnitude))
    plain: Image.Image = getattr(ImageOps, name)(image)
    return plain


class TestOperations:
    @pytest.mark.parametrize("name", OPERATIONS)
    def test_they_are_pillow_s(self, name: str) -> None:
        operation, truth = OPERATIONS[name], photographs(6)
        signs = (1, -1) if operation.signed else (1,)
        for magnitude in {s * operation.magnitude(k) for k in (0, 4, 9) for s in signs}:
            if name == "solarize":
                magnitude = float(int(magnitude))  # Pillow compares levels with a whole number.
            found = operation.apply(truth, magnitude)
            for image, mine in zip(truth, found, strict=True):
                pixels = (image.permute(1, 2, 0) * 255).round().byte().numpy()
                theirs = by_pillow(name, magnitude, Image.fromarray(pixels))
                expected = torch.from_numpy(np.asarray(theirs).copy()).permute(2, 0, 1) / 255
                # Pillow rounds to levels, ImageEnhance twice. A rotated pixel may fall between two pixels.
                off = (mine - expected).abs() > 1.5 / 255
                assert float(off.double().mean()) <= (0.005 if name == "rotate" else 0)

    @pytest.mark.parametrize("name", OPERATIONS)
    def test_who_goes_back_has_a_slope(self, name: str) -> None:
        leaf = photographs(2).requires_grad_()
        operation = OPERATIONS[name]
        operation.apply(leaf, operation.magnitude(6)).square().sum().backward()
        assert leaf.grad is not None
        assert torch.isfinite(leaf.grad).all()
        assert float(leaf.grad.abs().mean()) > 1e-3

    def test_gray_and_flat_images_pass(self) -> None:
        for shown in (torch.rand(1, 1, 8, 8), torch.zeros(1, 1, 8, 8), torch.ones(2, 3, 2, 2)):
            for operation in OPERATIONS.values():
                found = operation.apply(shown, operation.magnitude(5))
                assert found.shape == shown.shape
                assert torch.isfinite(found).all()


class TestATS:
    def test_the_authors_numbers(self) -> None:
        assert len(LIBRARY) == 50
        assert LIBRARY[3] == ("translate_x", 9)
        assert LIBRARY[43] == ("translate_y", 3)
        assert LIBRARY[49] == ("autocontrast", 1)
        assert ATS().chains == ((3, 1, 7), (43, 18, 18))
        assert ATS(policies="").chains == ((),)

    @pytest.mark.parametrize("wrong", ["50", "3-1-x", "3--1", "-1"])
    def test_unknown_numbers_are_refused(self, wrong: str) -> None:
        with pytest.raises(SpecificationError, match="numbers from 0 to 49"):
            ATS(policies=wrong)

    def test_each_image_goes_through_one_of_the_maps(self) -> None:
        defense, truth = ATS(), photographs(8)
        shown, _ = defense.on_batch(truth, torch.zeros(8), seeds=lg.Seeds(0))
        drawn = [
            [
                i
                for i, one in enumerate(defense.maps)
                if torch.equal(one(truth[k : k + 1])[0], image)
            ]
            for k, image in enumerate(shown)
        ]
        assert all(drawn)
        assert len({numbers[0] for numbers in drawn}) > 2

    def test_seeds_decide(self) -> None:
        one, same, other = (
            ATS().on_batch(photographs(4), torch.zeros(4), seeds=lg.Seeds(i))[0] for i in (0, 0, 1)
        )
        assert torch.equal(one, same)
        assert not torch.equal(one, other)

    def test_data_that_is_no_images_is_refused(self) -> None:
        for defense in (ATS(), PixelDropout()):
            with pytest.raises(DataError, match="images"):
                defense.on_batch(torch.rand(2, 5), torch.zeros(2), seeds=lg.Seeds(0))


class TestSearch:
    def test_noise_is_private_and_the_image_itself_is_not(self) -> None:
        """Gradients agree early if T(x) is close to noise. For the image itself they agree only at the end."""
        batch = images(3)
        model = sigmoid_cnn()
        score = privacy_score(
            model, functional.cross_entropy, batch.inputs, batch.targets, bins=1, seeds=lg.Seeds(0)
        )
        noise = torch.rand(1, 1, 8, 8, generator=lg.Seeds(0).generator("noise"))
        aim, far = (
            lg.FedSGD()(model, functional.cross_entropy, x, batch.targets[:1])
            for x in (batch.inputs[:1], noise)
        )
        cosines = [
            functional.cosine_similarity(far[n].flatten(), t.flatten(), dim=0)
            for n, t in aim.items()
        ]
        alone = privacy_score(
            model,
            functional.cross_entropy,
            batch.inputs[:1],
            batch.targets[:1],
            bins=1,
            seeds=lg.Seeds(0),
        )
        assert alone == pytest.approx((1 + float(torch.stack(cosines).mean())) / 2, rel=1e-4)
        assert 0 < score < 1

    def test_images_that_are_told_apart_score_higher(self) -> None:
        """All rows of a linear network are equal. The rows of a ReLU network differ from image to image."""
        linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4))
        many = images(6).inputs
        alike, apart = accuracy_score(linear, many), accuracy_score(mlp(), many)
        assert alike < apart < 0
        # There is one eigenvalue of 6, and there are five of 0.
        assert alike == pytest.approx(-(math.log(6) + 1 / 6 + 5 * (math.log(1e-5) + 1e5)), rel=1e-3)

    def test_it_finds_the_same_policies_again_best_first(self) -> None:
        batch, model = images(12), mlp()
        before = [p.clone() for p in model.parameters()]
        search = ATSSearch(
            candidates=6, examples=2, jacobians=6, bins=3, epochs=2, minibatch=6, threshold=-1e9
        )
        state = torch.random.get_rng_state()
        one, same = (
            search(model, functional.cross_entropy, batch.inputs, batch.targets, seeds=lg.Seeds(3))
            for _ in range(2)
        )
        assert one == same
        assert torch.equal(state, torch.random.get_rng_state())
        assert [found.privacy for found in one] == sorted(found.privacy for found in one)
        assert all(len(ATS(policies=found.policy).chains[0]) <= 3 for found in one)
        assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))

    def test_where_none_passes_it_says_so(self) -> None:
        batch = images(4)
        search = ATSSearch(candidates=2, examples=1, jacobians=4, epochs=0, threshold=1e9)
        with pytest.raises(DataError, match="none of 2"):
            search(mlp(), functional.cross_entropy, batch.inputs, batch.targets, seeds=lg.Seeds(0))


class TestRestoration:
    def test_what_is_typical_is_measured(self) -> None:
        shown = lg.data.photos().inputs.double()
        values = statistics(shown, torch.ones_like(shown[:, :1]))
        for column, (mean, deviation) in zip(values.T, TYPICAL, strict=True):
            assert float(column.mean()) == pytest.approx(mean, abs=0.05)
            assert float(column.std()) == pytest.approx(deviation, abs=0.05)

    def test_a_shift_is_carried_back(self) -> None:
        truth = photographs(2)
        shift = Transformation(ATS(policies="24").maps[0].steps)
        carried, reached = carry_back(shift(truth), shift)
        lost = round(150 / 331 / 3 * 32)
        assert int((~reached)[0, 0, :, 0].sum()) == lost
        assert torch.allclose(carried * reached, truth * reached)

    def test_what_is_seen_is_kept_and_what_is_lost_is_smooth(self) -> None:
        ramp = torch.linspace(0.2, 0.8, 16).expand(1, 3, 16, 16).double()
        hidden = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
        hidden[..., 5:8, 5:9] = True
        found = restore(
            ramp * ~hidden,
            lambda unit: torch.where(hidden, 0.0, unit),
            weight=1e-4,
            steps=100,
        )
        assert float((found - ramp).abs().max()) < 0.01

    def test_the_transformation_is_told_and_undone(self) -> None:
        """All three images are restored. Lost bands and values out of range identify each transformation."""
        defense, truth = ATS(policies="43-18-18"), photographs(3)
        shown, _ = defense.on_batch(truth, torch.zeros(3), seeds=lg.Seeds(1))
        attack = lg.attacks.TransformationInversion(steps=40)
        found, chosen = undo_transformations(shown, defense.maps, attack)
        for k, number in enumerate(chosen):
            assert torch.allclose(defense.maps[number](truth[k : k + 1]), shown[k : k + 1])
        gain = lg.metrics.psnr(truth, found) - lg.metrics.psnr(truth, shown)
        assert float(gain.mean()) > 6


class TestInputDropout:
    @pytest.mark.parametrize(
        "defense", [PixelDropout(fraction=0.3, fill=0.4), PatchDropout(side=3)]
    )
    def test_the_share_is_exact_and_the_rest_is_left(self, defense: PixelDropout) -> None:
        batch = images(4)
        shown, targets = defense.on_batch(batch.inputs, batch.targets, seeds=lg.Seeds(0))
        changed = shown != batch.inputs
        assert targets is batch.targets
        assert bool((shown[changed] == defense.fill).all())
        side, size = defense.side, -(-8 // defense.side)
        grid = functional.max_pool2d(changed.float(), side, ceil_mode=True).flatten(1)
        assert grid.shape[1] == size**2
        assert grid.sum(1).tolist() == [defense.erasure.erased(8, 8)] * 4
        assert len({tuple(row) for row in grid.tolist()}) == 4
        whole = functional.interpolate(grid.view(4, 1, size, size), scale_factor=side)
        assert torch.equal(whole[..., :8, :8].bool(), changed)

    @pytest.mark.parametrize(
        "defense", [PixelDropout(fraction=0.5), PatchDropout(fraction=0.3, side=5)]
    )
    def test_what_was_dropped_is_found_and_filled_in(self, defense: PixelDropout) -> None:
        truth = photographs(5).clamp_min(0.02)
        shown, _ = defense.on_batch(truth, torch.zeros(5), seeds=lg.Seeds(0))
        lost = find_erased(shown, defense.erasure)
        assert torch.equal(lost, (shown != truth).all(1, keepdim=True))
        found = fill_erased(shown, lost, weight=1e-4, steps=100)
        assert torch.equal(found * ~lost, truth * ~lost)
        gain = lg.metrics.psnr(truth, found) - lg.metrics.psnr(truth, shown)
        assert float(gain.mean()) > 10

    def test_a_patch_as_large_as_the_image_passes(self) -> None:
        defense = PatchDropout(fraction=0.5, side=50)
        shown, _ = defense.on_batch(images(2).inputs, torch.zeros(2), seeds=lg.Seeds(0))
        assert torch.equal(shown, images(2).inputs)
        assert not bool(find_erased(shown, defense.erasure).any())


class TestAdaptiveAttacks:
    def test_each_is_for_its_own_defense(self, observe: Callable[..., lg.Observation]) -> None:
        inner = lg.attacks.InvertingGradients(steps=1)
        undoing = lg.attacks.TransformationInversion(attack=inner)
        inpainting = lg.attacks.Inpainting(attack=inner)
        chain = Chain(defenses=(TopK(sparsity=0.0), ATS(), PatchDropout()))
        assert effect(chain, TransformedExamples) == effect(ATS(), TransformedExamples)
        assert effect(chain, ErasedPatches) == ErasedPatches(fill=0.0, side=4, fraction=0.5)
        both = Chain(defenses=(PixelDropout(), PatchDropout()))
        for attack in (undoing, inpainting):
            for under in (Mixup(), both):
                assert refusal(attack, observe(mlp(), images(1), under=under))
            with pytest.raises(lg.KnowledgeError, match="defense"):
                attack.plan(observe(mlp(), images(1)))

    def test_dropout_from_the_update_to_the_image(
        self, observe: Callable[..., lg.Observation]
    ) -> None:
        coarse = torch.rand((1, 1, 3, 3), generator=torch.Generator().manual_seed(1))
        smooth = 0.1 + 0.8 * functional.interpolate(coarse, size=8, mode="bilinear")
        batch, inner = lg.Batch(smooth, torch.tensor([1])), lg.attacks.VanishingPrior(steps=150)
        seen = observe(sigmoid_cnn(), batch, under=PixelDropout(fraction=0.3), labels=True)
        naive = inner(seen, seeds=lg.Seeds(0))
        found = replace(lg.attacks.Inpainting(), attack=inner)(seen, seeds=lg.Seeds(0))
        gain = psnr(batch.inputs, found.inputs) - psnr(batch.inputs, naive.inputs)
        assert float(gain) > 10
        assert "30% of each image" in found.notes[-1]
