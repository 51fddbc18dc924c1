"""A check of a loss: is its value on a batch the mean of its values on the parts?"""

from __future__ import annotations

import torch

from leakgauge.core import Loss, ProbeError
from leakgauge.federated.isolation.probing import probing
from leakgauge.federated.isolation.untouched import value_of


def is_batch_mean(loss: Loss, classes: int | None) -> bool:
    """Return whether the loss of a batch is the mean of the losses of its two halves.

    The result is False for a sum over the examples, and for a mean that divides by class weights. A
    loss that takes no class labels cannot be tested. The result is then True.
    """
    if classes is None or classes < 2:
        return True
    # A fixed seed is enough: the result does not depend on the points.
    generator = torch.Generator().manual_seed(0)
    count = classes - classes % 2
    outputs = torch.randn((count, classes), generator=generator)
    labels = torch.arange(count)
    try:
        with probing("the loss"):
            whole = value_of(loss, outputs, labels)
            pairs = zip(outputs.tensor_split(2), labels.tensor_split(2), strict=True)
            parts = torch.stack([value_of(loss, half, truth) for half, truth in pairs])
    except ProbeError:
        return True
    return bool(torch.isclose(parts.mean(), whole, rtol=1e-4, atol=0))
