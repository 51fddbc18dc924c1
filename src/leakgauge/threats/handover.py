"""The adversary's copy of the model: made before the client trains, and without the user's hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch import nn

from leakgauge.core import ModelError, deep_copy
from leakgauge.federated.clients.client import Batch, Client
from leakgauge.federated.clients.steadiness import EQUAL_WITHIN, difference, evaluate_update
from leakgauge.federated.isolation.shared import restored

_HOOKS = (
    "_forward_pre_hooks",
    "_forward_hooks",
    "_backward_pre_hooks",
    "_backward_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)
"""Attributes in which a module keeps its hooks. Other attributes hold options of a hook under the same key."""


def hand_over(client: Client, model: nn.Module, batch: Batch) -> nn.Module:
    """Return a copy of the model without the hooks that the user registered.

    Hooks of torch itself stay: weight norm, spectral norm and pruning belong to the computation.

    Raises:
        ModelError: A hook changes the update. The adversary's model would then be another one.
    """
    found, dropped = without_hooks(model)
    if dropped:
        with client.shared(), restored(model):
            apart = difference(
                evaluate_update(client, deep_copy(model), batch),
                evaluate_update(client, deep_copy(found), batch),
            )
        if apart > EQUAL_WITHIN:
            raise ModelError(
                f"model {type(model).__name__}",
                expected="hooks that do not change the update, because the adversary's model has none",
                found=f"{', '.join(dropped[:3])}. Without hooks the update differs by {apart:.2g} of its norm",
                remedy="move the computation into the forward of a module",
            )
    return found


def without_hooks(model: nn.Module) -> tuple[nn.Module, list[str]]:
    """Return a copy of the model without the user's hooks, and the names of the removed hooks."""
    found = deep_copy(model)
    return found, [drop(hooks, key, name) for name, hooks, key in user_hooks(found)]


def user_hooks(model: nn.Module) -> Iterator[tuple[str, dict[int, Any], int]]:
    """Yield the name, the dictionary and the key of every hook that does not come from torch."""
    for name, module in model.named_modules():
        for kind in _HOOKS:
            hooks = getattr(module, kind, None) or {}
            for key, hook in list(hooks.items()):
                if not _from_torch(hook):
                    yield f"{kind.strip('_')} of {name or type(module).__name__!r}", hooks, key


def drop(hooks: dict[int, Any], key: int, name: str) -> str:
    """Remove a hook and return its name."""
    del hooks[key]
    return name


def _from_torch(hook: Callable[..., Any]) -> bool:
    """Return whether a hook is torch's: a function, an object of a class, or its method."""
    # Torch may wrap a user's function, so the module of the inner function decides.
    inner = getattr(hook, "hook", hook)
    while isinstance(inner, partial):
        inner = inner.func
    owner = getattr(inner, "__self__", None)
    place = getattr(inner, "__module__", None) if owner is None else type(owner).__module__
    return isinstance(place, str) and (place == "torch" or place.startswith("torch."))


__all__ = ["hand_over", "without_hooks"]
