"""The graph of a network computes what the network computes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import leakgauge as lg
from leakgauge.analytic.convolutions.tracing import trace


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("training", [False, True])
def test_a_graph_serves_batches_of_any_size(mode: str, training: bool) -> None:
    """Circular padding and ReLU in place write into tensors, which must not be lost."""
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, padding_mode=mode),  # type: ignore[arg-type]
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.GroupNorm(2, 4),
        nn.Flatten(),
        nn.Linear(64, 5),
    ).double()
    model.train(training)
    graph = trace(model, lg.ImageDomain(2, 8, 8))
    assert not isinstance(graph, lg.Inapplicable)
    for batch in (1, 3, 8):
        x = torch.rand((batch, 2, 8, 8), generator=torch.Generator().manual_seed(batch)).double()
        found = graph.evaluate([graph.end], {graph.entry: x})[graph.end]
        torch.testing.assert_close(found, model(x))


def test_a_model_that_refuses_a_batch_is_not_traced() -> None:
    class Alone(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert len(x) == 1, "one example"
            return x.flatten(1)

    refused = trace(Alone(), lg.ImageDomain(1, 4, 4))
    assert isinstance(refused, lg.Inapplicable)
    assert "one example" in refused.reason
