"""The place before a model's last linear layer, where some defenses put a module."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from leakgauge.core import ModelError, deep_copy, trainable


def insert_before_last_linear(model: nn.Module, name: str, module: nn.Module) -> nn.Module:
    """Return a copy of the model with `module` before the last linear layer.

    Args:
        model: The network. It stays unchanged.
        name: Name of the new module within the copy.
        module: The module. Its input is the former input of the last linear layer.

    Raises:
        ModelError: The model does not end with a linear layer that has trained layers before it.
    """
    place, last = find_last_linear(model)
    after = deep_copy(model)
    inner = OrderedDict([(name, module), ("head", after.get_submodule(place))])
    whole = nn.Sequential(inner)
    whole.training = last.training
    parent, _, leaf = place.rpartition(".")
    setattr(after.get_submodule(parent), leaf, whole)
    return after


def find_last_linear(model: nn.Module) -> tuple[str, nn.Linear]:
    """Return the name of the last linear layer, and the layer.

    "Last" is meant in the order in which the model registers the layers that it trains.

    Raises:
        ModelError: The model does not end with a linear layer that has trained layers before it.
    """
    parameters = list(trainable(model))
    name = parameters[-1].rpartition(".")[0] if parameters else ""
    last = model.get_submodule(name)
    # A subclass may use the weight without a call of the layer, as attention's output projection does.
    if type(last) is not nn.Linear or not name:
        raise ModelError(
            f"model {type(model).__name__}",
            expected="a linear layer, registered last, with room for a module before it",
            found=f"{type(last).__name__} {name!r}",
            remedy="end the model with torch.nn.Linear, or choose another defense",
        )
    if all(other.rpartition(".")[0] == name for other in parameters):
        raise ModelError(
            f"model {type(model).__name__}",
            expected="trained layers before the last linear layer",
            found="none",
            remedy="take a deeper model, or another defense",
        )
    return name, last
