"""Known shortfalls of contracts."""

from __future__ import annotations

import pytest

BITS = ("same_seed_same_bits", "never_sees_the_truth", "watcher_that_never_stops")
"""Contracts that compare two runs bit by bit."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Expect that two runs of `ShiftConsistency` may differ in their last digits, which is open."""
    for item in items:
        if "ShiftConsistency" in item.name and any(name in item.name for name in BITS):
            item.add_marker(
                pytest.mark.xfail(reason="last digits differ between runs", strict=False)
            )
