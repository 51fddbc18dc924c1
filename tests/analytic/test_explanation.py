"""Tests of the choice of the label that explains an example's part of a gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from leakgauge.analytic.explanation import explain

CAUSED = torch.tensor(
    [
        [[1.0, 0.0], [0.0, 1.0], [5.0, 5.0]],
        [[0.0, 1.0], [0.0, 1.0], [5.0, 5.0]],
        [[1.0, 1.0], [1.0, 1.0], [torch.nan, 5.0]],
    ]
)
"""Slopes (labels, examples, outputs) of three examples under three labels."""
SEEN = torch.tensor([[0.0, 0.9], [0.0, 1.0], [torch.nan, 5.0]])


def misfit(caused: Tensor) -> Tensor:
    return (caused - SEEN).norm(dim=1)


def test_each_example_has_the_label_of_least_misfit() -> None:
    found = explain(lambda label: CAUSED[label], misfit, range(3))
    assert found.labels[:2].tolist() == [1, 0], "of equal misfits the first label counts"
    assert found.misfit[:2].tolist() == pytest.approx([0.1, 0.0])
    assert torch.equal(found.caused[:2], torch.tensor([[0.0, 1.0], [0.0, 1.0]]))


def test_an_example_that_is_no_number_has_no_label() -> None:
    found = explain(lambda label: CAUSED[label], misfit, range(3))
    assert found.labels[2] == -1
    assert found.misfit[2] == torch.inf
    assert not found.caused[2].any()


def test_only_the_labels_given_are_tried() -> None:
    found = explain(lambda label: CAUSED[label], misfit, [2, 0])
    assert found.labels.tolist() == [2, 0, -1]


def test_no_label_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="expected at least one label to try; found none"):
        explain(lambda label: CAUSED[label], misfit, [])
