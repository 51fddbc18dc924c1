"""A check that the layers of a defense take part in the model's output."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from leakgauge.core import Domain, ModelError, Tensors, deep_copy, trainable, unit_shape
from leakgauge.federated.isolation.probing import spread
from leakgauge.federated.isolation.untouched import output_of

PROBES = 2
"""Number of random inputs of the check."""


def check_placed(before: nn.Module, after: nn.Module, domain: Domain, defense: str) -> None:
    """Check that the output of `after` depends on the parameters that a defense added or moved.

    A defense finds its place by the order in which a model registers its layers. The last layer may
    be an auxiliary head whose output the model does not return. Then the model would be undefended.

    Args:
        before: The model without the defense.
        after: The model with the defense.
        domain: The domain of the inputs.
        defense: Name of the defense, for the error.

    Raises:
        ModelError: The output depends on none of these parameters.
        ProbeError: The model fails on random inputs of the domain.
    """
    moved = find_moved(trainable(before), trainable(after))
    if not moved:
        return
    model = deep_copy(after).eval()
    parameters = trainable(model)
    inputs = domain.from_unit(spread(unit_shape(domain), PROBES, next(iter(parameters.values()))))
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        outputs = [t for t in tree_leaves(output_of(model, inputs)) if isinstance(t, Tensor)]
        value = torch.stack([t.square().sum() for t in outputs if t.requires_grad]).sum()
        slopes = torch.autograd.grad(
            value, [parameters[name] for name in moved], materialize_grads=True
        )
    if not any(bool(slope.any()) for slope in slopes):
        raise ModelError(
            f"defense {defense}",
            expected="a model whose output depends on the layer that it registers last",
            found=f"no dependence on {moved[-1]!r}",
            remedy="register the head after every other layer",
        )


def find_moved(before: Tensors, after: Tensors) -> list[str]:
    """Return the new names of the parameters that a defense moved, or of all new ones if it moved none.

    A layer that a defense adds can have a gradient in any case, for example from a KL term. The
    layer that the defense moved behind it has a gradient only if the output depends on that layer.
    """
    fresh = [name for name in after if name not in before]
    gone = [tensor for name, tensor in before.items() if name not in after]
    moved = [n for n in fresh if any(torch.equal(after[n], tensor) for tensor in gone)]
    return moved or fresh


__all__ = ["check_placed"]
