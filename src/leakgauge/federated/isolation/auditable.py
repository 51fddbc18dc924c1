"""A check that a model can be audited, and the copy of it that an audit works on."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from leakgauge.core import ModelError, deep_copy, trainable, unwrap
from leakgauge.core.lines import describe_error
from leakgauge.federated.isolation.layouts import is_finite


def audited(model: nn.Module) -> nn.Module:
    """Return a copy of a user's model without wrappers, for use by client and adversary.

    Raises:
        ModelError: The model is lazy, has no values (device meta), is compiled to TorchScript, or
            cannot be copied.
    """
    model = unwrap(model)
    name = f"model {type(model).__name__}"
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise ModelError(
            name,
            expected="a module of Python code, whose parameters can be replaced",
            found="TorchScript",
            remedy="pass the module that was scripted or traced",
        )
    lazy = [key for key, tensor in state_of(model).items() if is_lazy(tensor)]
    if lazy:
        raise ModelError(
            name,
            expected="parameters with shapes",
            found=f"{lazy[0]!r}, which is lazy",
            remedy="call the model on one batch first",
        )
    empty = [key for key, tensor in state_of(model).items() if tensor.is_meta]
    if empty:
        raise ModelError(
            name,
            expected="parameters and buffers with values",
            found=f"{empty[0]!r} on the device meta, which holds no values",
            remedy="call model.to_empty(device='cpu') and load its weights",
        )
    try:
        return deep_copy(model)
    # A copy of a user's module can raise any exception.
    except Exception as error:
        raise ModelError(
            name,
            expected="a module that copy.deepcopy can copy",
            found=describe_error(error),
            remedy="give it __deepcopy__, or remove open files, locks, generators and tensors that torch "
            "cannot copy from its attributes",
        ) from error


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the parameters and buffers of a model by name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def check_finite(model: nn.Module) -> None:
    """Raise ModelError if a parameter or buffer is not finite, or if no parameter is trainable."""
    for name, tensor in state_of(model).items():
        if not is_finite(tensor):
            raise ModelError(
                f"model {type(model).__name__}",
                expected="finite weights",
                found=f"NaN or infinity in {name!r}",
                remedy="load a checkpoint with finite weights",
            )
    if not trainable(model):
        raise ModelError(
            f"model {type(model).__name__}",
            expected="at least one trainable parameter",
            found="no trainable parameter",
            remedy="set requires_grad on the parameters that the client trains",
        )
