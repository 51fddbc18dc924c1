"""The place before a model's last linear layer, where some defenses put a module of their own."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from leakgauge.core import ModelError, copied, trainable


def before_last_linear(model: nn.Module, name: str, module: nn.Module) -> nn.Module:
    """A copy in which `module`, called `name`, reads what the last linear layer read. Raises ModelError as below."""
    place, last = last_linear(model)
    after = copied(model)
    inner = OrderedDict([(name, module), ("head", after.get_submodule(place))])
    whole = nn.Sequential(inner)
    whole.training = last.training
    parent, _, leaf = place.rpartition(".")
    setattr(after.get_submodule(parent), leaf, whole)
    return after


def last_linear(model: nn.Module) -> tuple[str, nn.Linear]:
    """The linear layer that the model registers last of all that it trains, and its name. Raises ModelError."""
    parameters = list(trainable(model))
    name = parameters[-1].rpartition(".")[0] if parameters else ""
    last = model.get_submodule(name)
    # A subclass may use its weight without being called, as attention's output projection.
    if type(last) is not nn.Linear or not name:
        raise ModelError(
            f"model {type(model).__name__}",
            expected="a linear layer, registered last, before which another can stand",
            found=f"{type(last).__name__} {name!r}",
            remedy="end the model with torch.nn.Linear, or choose another defense",
        )
    if all(other.rpartition(".")[0] == name for other in parameters):
        raise ModelError(
            f"model {type(model).__name__}",
            expected="trained layers before its last linear one",
            found="none",
            remedy="take a deeper model, or another defense",
        )
    return name, last
