"""What the header of a run says about each model, by counting."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import leakgauge as lg


class Choosing(nn.Module):
    """A network that cannot be traced, since it reads its values."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        scale = 2.0 if float(x.detach().sum()) > 0 else 1.0
        logits: Tensor = self.linear(torch.flatten(x * scale, 1))
        return logits


def header_of(case: lg.Case) -> lg.records.Inspected:
    """Return what the header of a run says about its only case."""
    (found,) = lg.audit(case).records[0].inspected
    return found


def test_the_verdict_is_that_of_the_inspection() -> None:
    data = lg.data.digits()
    model = lg.models.mlp(data.domain, classes=10, width=8)
    case = lg.Case(name="digits", data=data, model=model, attacks=[lg.attacks.LinearLayer()])
    found = header_of(case)
    assert (found.case, found.exact) == ("digits", 8)
    assert found.verdict == lg.inspect(model, data.domain).verdict


def test_a_model_that_cannot_be_counted_is_audited_nevertheless() -> None:
    attacks = [lg.attacks.LinearLayer()]
    case = lg.Case(name="own", data=lg.data.digits(), model=Choosing(), attacks=attacks)
    found = header_of(case)
    assert found.exact is None
    assert found.verdict.startswith("Not counted: model: expected")
