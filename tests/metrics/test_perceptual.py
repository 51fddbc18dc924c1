"""Perceptual metrics: reference values, bounds, and weights that are found, refused or fetched."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.ndimage import correlate1d
from torch import Tensor

import leakgauge as lg
from leakgauge import metrics, models
from leakgauge.core import DataError, ModelError
from leakgauge.metrics.multiscale import WEIGHTS
from leakgauge.modalities import Metric, modality_of
from leakgauge.models import perceptual as weights
from leakgauge.models.parts import seeded

LARGE = metrics.MS_SSIM_SIDE


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def smooth(*shape: int, seed: int = 0) -> Tensor:
    """Return images whose pixels resemble their neighbors."""
    coarse = rand(*shape[:2], shape[2] // 8 + 1, shape[3] // 8 + 1, seed=seed).double()
    return torch.nn.functional.interpolate(coarse, size=shape[2:], mode="bilinear")


def noisy(images: Tensor, std: float) -> Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(9)).to(images)
    return (images + std * noise).clamp(0, 1)


@pytest.fixture(scope="module")
def random_lpips() -> metrics.LpipsSqueeze:
    """Return LPIPS with random weights. None is negative, as in the learned ones."""
    with seeded(3):
        backbone, heads = metrics.SqueezeNet(), metrics.Heads()
    for parameter in heads.parameters():
        parameter.data.abs_()
    return metrics.LpipsSqueeze(backbone, heads)


@pytest.fixture
def no_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Yield the only folder in which weights are searched. It is empty at first."""
    monkeypatch.setenv("LEAKGAUGE_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    weights._loaded.cache_clear()
    yield tmp_path
    weights._loaded.cache_clear()


class TestFFT2D:
    def test_of_constant_images_is_the_squared_difference(self) -> None:
        # A constant image has one coefficient, c sqrt(HW). The others are 0.
        value = metrics.fft2d(torch.full((1, 3, 4, 6), 0.2), torch.full((1, 3, 4, 6), 0.7))
        assert value.item() == pytest.approx(0.25, rel=1e-6)

    def test_is_numpys_spectra(self) -> None:
        truth, guess = rand(2, 3, 9, 7), rand(2, 3, 9, 7, seed=1)
        x, y = (np.abs(np.fft.fft2(t.double().numpy())) / math.sqrt(63) for t in (truth, guess))
        expected = ((x - y) ** 2).mean(axis=(1, 2, 3))
        assert metrics.fft2d(truth, guess).tolist() == pytest.approx(expected.tolist(), rel=1e-9)

    def test_is_blind_to_place_and_at_most_the_squared_error(self) -> None:
        truth, guess = rand(3, 1, 8, 8), rand(3, 1, 8, 8, seed=1)
        assert metrics.fft2d(truth, truth.roll((3, 5), (2, 3))).max() < 1e-12
        assert (metrics.fft2d(truth, guess) <= metrics.mse(truth, guess)).all()


class TestMultiScale:
    def test_is_the_papers_product_by_scipy(self) -> None:
        truth = smooth(1, 1, 170, 161)
        guess = noisy(truth, 0.1)
        expected = reference(truth[0, 0].numpy(), guess[0, 0].numpy())
        assert 0.5 < expected < 0.99
        assert metrics.ms_ssim(truth, guess).item() == pytest.approx(expected, rel=1e-9)

    def test_is_the_mean_over_channels_and_falls_with_noise(self) -> None:
        truth = smooth(1, 3, LARGE, LARGE)
        guesses = [noisy(truth, std) for std in (0.0, 0.05, 0.2)]
        values = [metrics.ms_ssim(truth, guess).item() for guess in guesses]
        assert values[0] == pytest.approx(1.0)
        assert values[0] > values[1] > values[2] > 0
        each = [metrics.ms_ssim(truth[:, [c]], guesses[1][:, [c]]).item() for c in range(3)]
        assert values[1] == pytest.approx(sum(each) / 3)

    def test_of_a_negative_is_zero_not_nan(self) -> None:
        truth = smooth(1, 1, LARGE, LARGE)
        assert metrics.ms_ssim(truth, 1 - truth).item() == 0.0

    def test_smaller_images_are_refused(self) -> None:
        with pytest.raises(DataError, match="161 pixels a side"):
            metrics.ms_ssim(rand(1, 1, LARGE - 1, 200), rand(1, 1, LARGE - 1, 200))


def reference(x: np.ndarray, y: np.ndarray) -> float:
    """Return equation 7 of Wang et al. 2003, computed by SciPy's convolutions."""
    window = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window /= window.sum()

    def means(a: np.ndarray) -> np.ndarray:
        return correlate1d(correlate1d(a, window, axis=0), window, axis=1)[5:-5, 5:-5]

    product = 1.0
    for scale, weight in enumerate(WEIGHTS):
        mx, my = means(x), means(y)
        vx, vy, cov = means(x * x) - mx**2, means(y * y) - my**2, means(x * y) - mx * my
        values = (2 * cov + 0.0009) / (vx + vy + 0.0009)
        if scale == 4:
            values = values * (2 * mx * my + 0.0001) / (mx**2 + my**2 + 0.0001)
        product *= values.mean() ** weight
        x, y = (halved(a) for a in (x, y))
    return product


def halved(a: np.ndarray) -> np.ndarray:
    rows, columns = a.shape
    a = np.pad(a, ((0, rows % 2), (0, columns % 2)), mode="edge")
    return (a[::2, ::2] + a[1::2, ::2] + a[::2, 1::2] + a[1::2, 1::2]) / 4


class TestLpips:
    def test_is_zero_for_equals_symmetric_and_grows_with_noise(
        self, random_lpips: metrics.LpipsSqueeze
    ) -> None:
        truth = smooth(2, 3, 32, 32)
        assert random_lpips(truth, truth).tolist() == [0.0, 0.0]
        near, far = noisy(truth, 0.02), noisy(truth, 0.3)
        values = random_lpips(truth, far)
        assert values.dtype == torch.float64
        torch.testing.assert_close(values, random_lpips(far, truth))
        assert (random_lpips(truth, near) > 0).all()
        assert (random_lpips(truth, near) < values).all()
        assert (values < random_lpips.ceiling).all()

    def test_is_the_papers_sum_over_depths(self, random_lpips: metrics.LpipsSqueeze) -> None:
        truth, guess = rand(1, 3, 40, 33).double(), rand(1, 3, 40, 33, seed=1).double()
        mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).double()
        expected = 0.0
        with torch.no_grad():
            pair = [
                random_lpips.backbone((t - mean[:, None, None]) / std[:, None, None])
                for t in (truth, guess)
            ]
        for x, y, w in zip(*pair, random_lpips.heads.weights, strict=True):
            unit = [torch.nn.functional.normalize(t[0].flatten(1), dim=0) for t in (x, y)]
            expected += float((w @ (unit[0] - unit[1]).square()).mean())
        assert len(pair[0]) == 7
        assert random_lpips(truth, guess).item() == pytest.approx(expected, rel=1e-6)

    def test_depends_on_neither_batch_nor_range(self, random_lpips: metrics.LpipsSqueeze) -> None:
        truth, guess = rand(3, 3, 32, 32), rand(3, 3, 32, 32, seed=1)
        assert torch.equal(
            random_lpips(truth[[2, 0]], guess[[2, 0]]), random_lpips(truth, guess)[[2, 0]]
        )
        wild = guess + torch.where(guess > 0.5, 9.0, 0.0)
        torch.testing.assert_close(
            random_lpips(truth, wild), random_lpips(truth, torch.where(guess > 0.5, 1.0, guess))
        )

    def test_gray_is_repeated(self, random_lpips: metrics.LpipsSqueeze) -> None:
        truth, guess = rand(1, 1, 32, 32), rand(1, 1, 32, 32, seed=1)
        color = random_lpips(truth.expand(-1, 3, -1, -1), guess.expand(-1, 3, -1, -1))
        torch.testing.assert_close(random_lpips(truth, guess), color)

    def test_a_guess_that_is_not_finite_scores_the_ceiling(
        self, random_lpips: metrics.LpipsSqueeze
    ) -> None:
        truth, guess = rand(2, 3, 32, 32), rand(2, 3, 32, 32, seed=1)
        guess[1, 0, 0, 0] = math.nan
        values = random_lpips(truth, guess)
        assert values[0] < values[1] == random_lpips.ceiling

    @pytest.mark.parametrize("shape", [(2, 32, 32), (3, 31, 64)])
    def test_what_it_does_not_read_is_refused(
        self, random_lpips: metrics.LpipsSqueeze, shape: tuple[int, ...]
    ) -> None:
        with pytest.raises(DataError, match="1 or 3 channels and at least 32"):
            random_lpips(rand(1, *shape), rand(1, *shape))


class TestIdentified:
    def test_the_nearest_decides(self) -> None:
        truth, decoys = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.5]])
        guess = torch.tensor([[0.2], [0.7]])
        assert metrics.identified(truth, guess, decoys).tolist() == [1.0, 0.0]

    def test_originals_of_the_batch_are_decoys_too(self) -> None:
        truth, guess = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.9], [0.1]])
        assert metrics.identified(truth, guess, torch.tensor([[5.0]])).tolist() == [0.0, 0.0]

    def test_copies_count_as_the_original_and_ties_do_not(self) -> None:
        truth = torch.tensor([[0.0], [0.0]])
        guess = torch.tensor([[0.1], [0.25]])
        decoys = torch.tensor([[0.0], [0.5]])
        assert metrics.identified(truth, guess, decoys).tolist() == [1.0, 0.0]

    def test_features_decide_by_angle(self) -> None:
        truth, decoys = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.2, 0.2]])
        guess = torch.tensor([[0.3, 0.1]])  # nearer to the decoy, but along the original
        assert metrics.identified(truth, guess, decoys).item() == 0.0
        assert metrics.identified(truth, guess, decoys, embed=lambda x: x).item() == 1.0

    def test_by_chance_it_is_one_in_the_number_of_candidates(self) -> None:
        pool, guesses = rand(20, 30), rand(400, 30, seed=1)
        hits = [metrics.identified(pool[:1], g[None], pool[1:]).item() for g in guesses]
        assert 0.01 < sum(hits) / 400 < 0.12

    def test_a_guess_that_is_not_finite_points_at_nothing(self) -> None:
        truth = torch.tensor([[0.0, 0.0]])
        guess = torch.tensor([[math.nan, 0.0]])
        for embed in (None, lambda x: x + 1):
            assert metrics.identified(truth, guess, truth + 1, embed=embed).item() == 0.0

    def test_without_decoys_there_is_nothing_to_tell_apart(self) -> None:
        with pytest.raises(DataError, match="at least one decoy"):
            metrics.identified(rand(2, 3), rand(2, 3), rand(0, 3))


class TestWeights:
    def test_none_is_told_with_its_remedy(self, no_files: Path) -> None:
        assert not models.has_lpips()
        with pytest.raises(ModelError, match="fetch_lpips") as caught:
            models.lpips_squeeze()
        assert "\n" not in str(caught.value)
        domain = lg.ImageDomain(3, 32, 32)
        told = modality_of(domain).compared_by(domain)
        assert told == "no LPIPS: its weights were not found"

    def test_found_ones_are_read_and_named(
        self, no_files: Path, random_lpips: metrics.LpipsSqueeze
    ) -> None:
        put(no_files / "weights", random_lpips)
        truth, guess = rand(1, 3, 32, 32), rand(1, 3, 32, 32, seed=1)
        before = torch.get_rng_state()
        found = models.lpips_squeeze()
        assert torch.equal(before, torch.get_rng_state())
        torch.testing.assert_close(found(truth, guess), random_lpips(truth, guess))
        domain = lg.ImageDomain(3, 32, 32)
        assert "SqueezeNet 1.1" in str(modality_of(domain).compared_by(domain))
        chosen = metrics_of(domain, rand(4, 3, 32, 32, seed=2))
        assert {"lpips_squeeze", "iip_squeeze", "iip_pixels"} <= set(chosen)
        assert chosen["iip_squeeze"](truth, truth).tolist() == [1.0]

    def test_an_audit_refuses_broken_ones_before_it_runs(
        self, no_files: Path, random_lpips: metrics.LpipsSqueeze
    ) -> None:
        put(no_files / "weights", random_lpips)
        save_file({"lin0": torch.zeros(1)}, no_files / "weights" / weights.HEADS.name)
        data = lg.Dataset(
            "noise", rand(4, 3, 32, 32), torch.arange(4), lg.ImageDomain(3, 32, 32), 4
        )
        model = models.build(models.mlp, data.domain, 4)
        case = lg.Case(name="broken", data=data, model=model, attacks=[lg.attacks.LinearLayer()])
        with pytest.raises(ModelError, match="lin0"):
            lg.audit(case)

    def test_a_download_is_checked_and_kept(
        self, no_files: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A local file stands in for the network."""
        published = no_files / "published.pth"
        torch.save({"x": torch.ones(2)}, published)
        right = hashlib.sha256(published.read_bytes()).hexdigest()
        for sha256, kept in (("0" * 64, False), (right, True)):
            source = weights.Source("x.safetensors", published.as_uri(), sha256)
            monkeypatch.setattr(weights, "BACKBONE", source)
            monkeypatch.setattr(weights, "HEADS", source)
            if kept:
                models.fetch_lpips()
            else:
                with pytest.raises(ModelError, match="invalid hash"):
                    models.fetch_lpips()
            assert [f.name for f in (no_files / "weights").iterdir()] == ["x.safetensors"] * kept

    @pytest.mark.skipif(not models.has_lpips(), reason="no LPIPS weights under LEAKGAUGE_DATA")
    def test_the_learned_ones_find_a_blur_nearer_than_noise(self) -> None:
        lpips = models.lpips_squeeze()
        photos = lg.data.photos().inputs[:4]
        assert lpips(photos, photos).tolist() == [0.0] * 4
        values = [lpips(photos, noisy(photos, std)).median() for std in (0.02, 0.1, 0.3)]
        assert 0 < values[0] < values[1] < values[2] < 1.5
        assert lpips.heads.weights[0].min() >= 0


def put(folder: Path, lpips: metrics.LpipsSqueeze) -> None:
    """Save weights in the form of the authors' files, with a classifier beside the features."""
    folder.mkdir()
    state = {name: t.contiguous() for name, t in lpips.backbone.state_dict().items()}
    save_file({**state, "classifier.1.bias": torch.zeros(3)}, folder / weights.BACKBONE.name)
    save_file(lpips.heads.state_dict(), folder / weights.HEADS.name)


def metrics_of(domain: lg.Domain, decoys: Tensor) -> dict[str, Metric]:
    return modality_of(domain).metrics(domain, decoys)


def test_metrics_of_a_domain() -> None:
    decoys, small_one = partial(rand, 2), lg.ImageDomain(1, 8, 8)
    small = set(metrics_of(lg.ImageDomain(1, 8, 8), decoys(1, 8, 8)))
    assert small == {"mse", "psnr", "ssim", "fft2d", "iip_pixels"}
    assert "no LPIPS: it reads" in str(modality_of(small_one).compared_by(small_one))
    large = lg.ImageDomain(1, LARGE, LARGE)
    assert "ms_ssim" in metrics_of(large, decoys(1, LARGE, LARGE))
    assert "iip_pixels" not in metrics_of(large, rand(0, 1, LARGE, LARGE))
    table = lg.TableDomain((lg.Column("age", 18, 100, "years", 0),))
    assert set(metrics_of(table, decoys(1))) == {"mse", "psnr", "columns_read"}
    assert modality_of(table).compared_by(table) is None
