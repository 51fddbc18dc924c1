"""Scores: each metric gets the unchanged examples, even if another metric writes to its arguments."""

from __future__ import annotations

import torch
from torch import Tensor

import leakgauge as lg
from leakgauge.audit.scores import score


def test_a_metric_that_writes_to_its_inputs_changes_no_other_score() -> None:
    def careless(truth: Tensor, guess: Tensor) -> Tensor:
        truth.zero_()
        guess.zero_()
        return torch.zeros(len(truth))

    inputs = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    batch = lg.Batch(inputs.clone(), torch.tensor([0, 1]))
    guess = lg.Reconstruction(
        inputs=1 - inputs,
        targets=None,
        found=torch.ones(2, dtype=torch.bool),
        status=lg.Status.UNCONVERGED,
    )
    domain, order = lg.ImageDomain(1, 4, 4), torch.arange(2)
    scores = score(
        domain,
        batch,
        guess,
        order,
        {"careless": careless, "mse": lg.metrics.mse},
        labels_granted=False,
    )
    assert scores["mse"] == lg.metrics.mse(inputs, 1 - inputs).tolist()
    assert torch.equal(batch.inputs, inputs)
