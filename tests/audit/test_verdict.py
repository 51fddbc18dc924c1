"""A verdict names the metrics by which examples leaked."""

from __future__ import annotations

import pytest

from leakgauge.audit.verdict import judged
from leakgauge.metrics.leak import IMAGE_RULE, TABLE_RULE


def why(psnr: list[float], ssim: list[float]) -> str:
    """Return the reason in the verdict on images with these scores. Each control has a PSNR of 8 dB."""
    count = len(psnr)
    scores, control = {"psnr": psnr, "ssim": ssim}, {"psnr": [8.0] * count}
    return judged(IMAGE_RULE, scores, control, [True] * count, better="higher").why


@pytest.mark.parametrize(
    ("psnr", "ssim", "expected"),
    [
        ([16.0, 16.5], [0.6, 0.7], "2 of 2 examples leaked, by ssim"),
        ([25.0, 26.5], [0.6, 0.7], "2 of 2 examples leaked, by psnr"),
        ([25.0], [0.1], "1 of 1 examples leaked, by psnr"),
        ([5.0], [0.1], "0 of 1 examples leaked"),
        (
            [25.0, 16.0, 5.0, 30.0],
            [0.1, 0.7, 0.1, 0.9],
            "3 of 4 examples leaked: examples 1 and 4 by psnr; example 2 by ssim",
        ),
    ],
)
def test_why_names_the_part(psnr: list[float], ssim: list[float], expected: str) -> None:
    assert why(psnr, ssim) == expected


def test_of_a_large_batch_the_first_examples_are_named() -> None:
    told = why([25.0] * 12 + [16.0], [0.1] * 12 + [0.7])
    assert told.endswith("examples 1, 2, 3, 4, 5, 6, 7, 8 and 4 more by psnr; example 13 by ssim")


def test_a_rule_of_one_part_names_none() -> None:
    scores, control = {"columns_read": [1.0]}, {"columns_read": [0.0]}
    told = judged(TABLE_RULE, scores, control, [True], better="higher").why
    assert told == "1 of 1 examples leaked"
