"""Whether a loss of a batch is the mean of the losses of its parts."""

from __future__ import annotations

import torch

from leakgauge.core import Loss, ProbeError
from leakgauge.federated.isolation.probing import probing
from leakgauge.federated.isolation.untouched import value_of


def averages(loss: Loss, classes: int | None) -> bool:
    """Return whether the mean of two parts' losses is the loss of both together. A sum, or class weights, is no mean.

    It is taken for granted if the loss takes no class labels.
    """
    if classes is None or classes < 2:
        return True
    generator = torch.Generator().manual_seed(0)  # probes of a map: any points serve
    count = classes - classes % 2
    outputs = torch.randn((count, classes), generator=generator)
    labels = torch.arange(count)
    try:
        with probing("the loss"):
            whole = value_of(loss, outputs, labels)
            pairs = zip(outputs.tensor_split(2), labels.tensor_split(2), strict=True)
            parts = torch.stack([value_of(loss, some, those) for some, those in pairs])
    except ProbeError:
        return True
    return bool(torch.isclose(parts.mean(), whole, rtol=1e-4, atol=0))
