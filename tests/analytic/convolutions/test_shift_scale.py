"""Scales and labels from the shift behind a convolution, where the features of all examples are nearly equal."""

from __future__ import annotations

import torch
from torch import nn

import leakgauge as lg
from leakgauge.analytic.convolutions.beginning import begin
from leakgauge.analytic.convolutions.observed import problem_of
from leakgauge.analytic.convolutions.problem import Beginning
from leakgauge.analytic.last_layer import last_layer


def pooled(norm: bool) -> nn.Sequential:
    """Return convolutions with a max pool between them, in eval mode, from a fixed seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1, bias=not norm),
            nn.BatchNorm2d(32) if norm else nn.Identity(),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 128, 3, padding=1, bias=not norm),
            nn.BatchNorm2d(128) if norm else nn.Identity(),
            nn.ReLU(),
            nn.Conv2d(128, 128, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(128, 10),
        ).eval()


def observed(model: nn.Module, batch: lg.Batch) -> lg.Observation:
    """Return the first update of a client with this batch."""
    client = lg.examples.client(model=model)
    return lg.Server(labels=False).observe(client, batch, seeds=lg.Seeds(0))


def test_examples_of_one_label_are_read_behind_a_bias_and_behind_batch_norm() -> None:
    for norm in (False, True):
        for labels in ([3, 3, 3, 3], [3, 1, 3, 7]):
            model = pooled(norm)
            batch = lg.Batch(lg.examples.batch(4).inputs, torch.tensor(labels))
            observation = observed(model, batch)
            head = last_layer(observation)
            assert not isinstance(head, lg.Inapplicable)
            problem = problem_of(observation, head)
            assert not isinstance(problem, lg.Inapplicable)
            found = begin(problem, generator=torch.Generator().manual_seed(0))
            assert isinstance(found, Beginning)
            (value,) = found.known.values.values()
            with torch.no_grad():
                truth = model[:4](batch.inputs).double().flatten(1)
            apart = torch.cdist(value.flatten(1), truth) / truth.norm(dim=1)
            nearest = apart.argmin(1)
            assert sorted(nearest.tolist()) == [0, 1, 2, 3]
            assert float(apart.amin(1).max()) < 1e-5
            assert found.labels.tolist() == batch.targets[nearest].tolist()
