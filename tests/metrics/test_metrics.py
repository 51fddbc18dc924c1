"""Metrics: closed forms, agreement with scikit-image, and the values of hostile reconstructions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from leakgauge import metrics
from leakgauge.core import DataError

Metric = Callable[[Tensor, Tensor], Tensor]

MADE = {"iip_pixels", "iip_squeeze", "lpips_squeeze"}
"""Metrics that need decoys or weights. They are tested in test_perceptual.py."""
TEXT = {"batch_bag", "exact", "rouge1", "rouge2", "rouge_l", "token_accuracy", "token_bag"}
"""Metrics of tokens. They are tested in test_text_metrics.py."""


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(3, 8, 8), (10,), (4, 6)])
def test_mse_of_a_known_offset(shape: tuple[int, ...]) -> None:
    truth = rand(3, *shape)
    offsets = torch.tensor([0.0, 0.1, -2.0]).reshape(3, *(1 for _ in shape))
    value = metrics.mse(truth, truth + offsets)
    assert value.dtype == torch.float64
    torch.testing.assert_close(value, torch.tensor([0.0, 0.01, 4.0]).double(), rtol=1e-5, atol=1e-9)


def test_psnr_is_its_formula_and_scikit_images() -> None:
    truth, guess = rand(4, 3, 9, 9), rand(4, 3, 9, 9, seed=1)
    value = metrics.psnr(truth, guess)
    for i in range(4):
        reference = peak_signal_noise_ratio(
            truth[i].double().numpy(), guess[i].double().numpy(), data_range=1.0
        )
        assert value[i].item() == pytest.approx(reference, rel=1e-12)
    # An error of 0.1 everywhere is 20 dB.
    flat = metrics.psnr(torch.zeros(1, 5).double(), torch.full((1, 5), 0.1).double())
    assert flat.item() == pytest.approx(20.0)


def test_psnr_stays_finite_at_both_ends() -> None:
    truth = rand(3, 4)
    guess = truth.clone()
    guess[1] = 1e30
    guess[2] = math.nan
    assert metrics.psnr(truth, guess).tolist() == [200.0, -200.0, -200.0]
    assert metrics.PSNR_CEILING == 200.0


@pytest.mark.parametrize(
    "shape", [(3, 32, 32), (1, 8, 8), (5, 12, 9), (1, 3, 4), (2, 2, 2), (1, 1, 1)]
)
def test_ssim_of_identical_images_is_one(shape: tuple[int, ...]) -> None:
    truth = rand(2, *shape)
    torch.testing.assert_close(metrics.ssim(truth, truth), torch.ones(2).double())


def test_ssim_is_scikit_images_per_example() -> None:
    truth = rand(3, 5, 16, 16)
    guess = (truth + 0.2 * rand(3, 5, 16, 16, seed=1)).clamp(0, 1)
    value = metrics.ssim(truth, guess)
    for i in range(3):
        reference = structural_similarity(
            truth[i].double().numpy(), guess[i].double().numpy(), channel_axis=0, data_range=1.0
        )
        assert value[i].item() == pytest.approx(reference, abs=1e-12)
        assert value[i] < 0.99


@pytest.mark.parametrize(("side", "window"), [(3, 3), (4, 3), (5, 5), (6, 5), (7, 7), (8, 7)])
def test_ssim_of_small_images_uses_the_largest_odd_window(side: int, window: int) -> None:
    truth, guess = rand(1, 1, side, 9), rand(1, 1, side, 9, seed=1)
    reference = structural_similarity(
        truth[0, 0].double().numpy(), guess[0, 0].double().numpy(), data_range=1.0, win_size=window
    )
    assert metrics.ssim(truth, guess).item() == pytest.approx(reference, abs=1e-12)


def test_ssim_of_tiny_images_is_wangs_formula() -> None:
    # In constant images only the luminance term remains.
    black, half = torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.5)
    assert metrics.ssim(black, half).item() == pytest.approx(1e-4 / (0.25 + 1e-4))
    # Opposite patterns in one window have equal means, covariance -1/3 and variances 1/3.
    pattern = torch.tensor([[[[0.0, 1.0], [1.0, 0.0]]]])
    expected = (-2 / 3 + 9e-4) / (2 / 3 + 9e-4)
    assert metrics.ssim(pattern, 1 - pattern).item() == pytest.approx(expected)


def test_ssim_clamps_the_guess_first() -> None:
    truth = rand(1, 3, 8, 8)
    wild = truth + torch.where(truth > 0.5, 10.0, -10.0)
    expected = metrics.ssim(truth, (truth > 0.5).float())
    torch.testing.assert_close(metrics.ssim(truth, wild), expected)


def test_columns_read_counts_columns_within_the_tolerance() -> None:
    truth = torch.full((2, 4), 0.5, dtype=torch.float64)
    guess = truth + torch.tensor([[0.0, 0.009, -0.011, 0.5], [math.nan, 0.0, 0.0, math.inf]])
    assert metrics.columns_read(truth, guess).tolist() == [0.5, 0.5]
    assert metrics.columns_read(truth, guess, tolerance=0.02).tolist() == [0.75, 0.5]


def test_label_match() -> None:
    match = metrics.label_match(torch.tensor([3, 1, 2]), torch.tensor([3, 2, 1]))
    assert match.tolist() == [1.0, 0.0, 0.0]
    assert match.dtype == torch.float64


@pytest.mark.parametrize("metric", [metrics.mse, metrics.psnr, metrics.ssim, metrics.fft2d])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_guess_that_is_not_finite_scores_worst(metric: Metric, bad: float) -> None:
    truth, guess = rand(3, 1, 8, 8), rand(3, 1, 8, 8, seed=1)
    guess[1, 0, 0, 0] = bad
    value = metric(truth, guess)
    assert torch.isfinite(value).all()
    leaks = -value if metrics.CLOSER[metric.__name__] == "lower" else value
    assert leaks.argmin() == 1
    alone = metric(truth[[0, 2]], guess[[0, 2]])
    torch.testing.assert_close(value[[0, 2]], alone)


@settings(max_examples=30, deadline=None)
@given(order=st.permutations(range(6)), seed=st.integers(0, 1000))
def test_assign_undoes_a_permutation(order: list[int], seed: int) -> None:
    truth = rand(6, 2, 3, 3, seed=seed)
    guess = truth[order] + 0.01 * rand(6, 2, 3, 3, seed=seed + 1)
    chosen = metrics.assign(truth, guess)
    assert chosen.dtype == torch.int64
    assert torch.tensor(order)[chosen].tolist() == list(range(6))


def test_assign_is_optimal_not_greedy() -> None:
    # Original 0 is closest to reconstruction 0, but that choice leaves the far one for original 1.
    truth = torch.tensor([[0.0], [0.4]])
    guess = torch.tensor([[0.1], [-0.9]])
    assert metrics.assign(truth, guess).tolist() == [1, 0]
    truth, guess = rand(5, 3), rand(5, 3, seed=1)
    best = min(
        itertools.permutations(range(5)),
        key=lambda p: metrics.mse(truth, guess[list(p)]).sum().item(),
    )
    assert metrics.assign(truth, guess).tolist() == list(best)


def test_assign_survives_guesses_that_are_not_finite() -> None:
    truth = rand(3, 4)
    guess = truth[[2, 0, 1]].clone()
    guess[1, 0] = math.nan
    assert metrics.assign(truth, guess).tolist() == [1, 2, 0]
    more = torch.cat([torch.full((2, 4), math.inf), guess])
    assert metrics.assign(truth[1:], more).tolist() == [4, 2]


def test_assign_tells_nearly_exact_guesses_apart() -> None:
    truth = torch.tensor([[0.5], [0.5 + 1e-9]], dtype=torch.float64)
    assert metrics.assign(truth, truth.flip(0)).tolist() == [1, 0]


def test_summary_of_known_values() -> None:
    values = torch.arange(11.0)
    high = metrics.summarize(values, threshold=8.0)
    assert (high.median, high.q10, high.q90, high.worst, high.count) == (5.0, 1.0, 9.0, 10.0, 11)
    assert high.success == pytest.approx(3 / 11)
    low = metrics.summarize(values, threshold=1.0, closer="lower")
    assert low.worst == 0.0
    assert low.success == pytest.approx(2 / 11)
    assert metrics.summarize(values).success is None


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-200, 200), min_size=1, max_size=20))
def test_summary_is_ordered(values: list[float]) -> None:
    s = metrics.summarize(torch.tensor(values, dtype=torch.float64), threshold=min(values))
    rounding = 1e-9
    assert s.q10 <= s.median + rounding <= s.q90 + 2 * rounding <= s.worst + 3 * rounding
    assert s.success == 1.0


def test_every_metric_has_a_direction() -> None:
    assert set(metrics.CLOSER) - MADE - TEXT <= set(metrics.__all__)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: metrics.mse(rand(2, 3), rand(3, 3)), "(2, 3)"),
        (lambda: metrics.psnr(torch.full((1, 2), math.nan), rand(1, 2)), "finite originals"),
        (lambda: metrics.mse(rand(0, 3), rand(0, 3)), "at least one example"),
        (lambda: metrics.ssim(rand(2, 3), rand(2, 3)), "(B, C, H, W)"),
        (lambda: metrics.fft2d(rand(2, 3), rand(2, 3)), "(B, C, H, W)"),
        (lambda: metrics.columns_read(rand(2, 1, 3), rand(2, 1, 3)), "(B, D)"),
        (lambda: metrics.label_match(torch.tensor([1]), rand(1, 10)), "argmax"),
        (lambda: metrics.assign(rand(3, 2), rand(2, 2)), "as many"),
        (lambda: metrics.assign(rand(3, 2), rand(3, 4)), "(3, 4)"),
        (lambda: metrics.summarize(torch.tensor([])), "at least one"),
        (lambda: metrics.summarize(torch.tensor([1.0, math.nan])), "1 not finite"),
        (lambda: metrics.summarize(rand(2), closer="nearer"), "nearer"),  # type: ignore[arg-type]
    ],
)
def test_mistakes_are_told_in_one_line(call: Callable[[], object], words: str) -> None:
    with pytest.raises(DataError) as caught:
        call()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(set(metrics.CLOSER) - {"label_match"} - MADE - TEXT))
@pytest.mark.parametrize("shape", [(1, 9, 9), (5, 9, 12)])
def test_contract_of_every_metric(name: str, shape: tuple[int, ...]) -> None:
    """Each example gets one finite float64 value. An exact copy gets a better one than a stranger."""
    metric: Metric = getattr(metrics, name)
    if name == "ms_ssim":
        shape = (shape[0], metrics.MS_SSIM_SIDE, metrics.MS_SSIM_SIDE)
    truth, stranger = (rand(4, *shape, seed=seed) for seed in (0, 1))
    if name == "columns_read":
        truth, stranger = truth.flatten(1), stranger.flatten(1)
    exact, other = metric(truth, truth.clone()), metric(truth, stranger)
    assert exact.shape == other.shape == (4,)
    assert exact.dtype == other.dtype == torch.float64
    assert torch.isfinite(exact).all()
    assert torch.isfinite(other).all()
    closer = exact < other if metrics.CLOSER[name] == "lower" else exact > other
    assert closer.all()
    assert torch.equal(metric(truth[[2, 0]], stranger[[2, 0]]), other[[2, 0]])
