"""Which prefixes of a decoder are kept."""

from __future__ import annotations

import pytest
import torch

from leakgauge.analytic.text.prefixes import _accepted
from leakgauge.analytic.text.spans import widest_gap


@pytest.mark.parametrize(
    ("distances", "inside", "kept"),
    [
        ([1e-6, 0.3], 1e-6, [True, False]),
        ([2e-4, 0.02], 1.6e-2, [True, False]),  # Local steps: the first layer alone is unclear.
        ([0.013, 0.05], 3e-4, [False, False]),  # The sequence ends here.
        ([0.05, 0.14], 0.04, [True, False]),  # Noise: nothing is near.
        ([1e-6, 2e-6], 1e-6, [True, True]),
    ],
)
def test_a_prefix_is_kept_if_it_is_about_as_near_as_those_before(
    distances: list[float], inside: float, kept: list[bool]
) -> None:
    found, _ = _accepted(torch.tensor(distances), inside, outside=0.45)
    assert found.tolist() == kept


def test_the_widest_gap_lies_between_the_distances() -> None:
    threshold, ratio = widest_gap(torch.tensor([1e-5, 1e-5, 0.2, 0.9]), 1e-6, 0.5)
    assert 1e-5 < threshold < 0.2
    assert ratio == pytest.approx(0.2 / 1e-5, rel=1e-3)
