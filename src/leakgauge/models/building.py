"""From a builder, ours or a user's own, to a model that can be audited."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from leakgauge.core import Domain, ModelError
from leakgauge.core.allowance import Allowance
from leakgauge.core.references import guard_user_code
from leakgauge.models.parts import seeded
from leakgauge.models.weights import load_weights

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def build(
    builder: Callable[..., Any],
    domain: Domain,
    classes: int,
    *,
    seed: int = 0,
    weights: str | Path | None = None,
    train: bool = False,
    **options: Any,
) -> nn.Module:
    """A model in eval mode (where `train`, in train mode), built from `seed` without touching the global random state.

    builder: called as builder(domain, classes, **options), or as builder(**options) where its
    signature requires no positional argument and names no domain; one that has a parameter `seed`
    is given it. weights: a safetensors file, see `load_weights`. Raises ModelError where the
    builder cannot be called so, raises an exception itself, returns no torch.nn.Module, or makes
    more tensors than `Allowance` grants, and for weights that do not fit.
    """
    where = f"model {getattr(builder, '__name__', repr(builder))!r}"
    arguments = _arguments(builder, domain, classes, seed, options, where)
    with (
        seeded(seed),
        guard_user_code(
            where, "a builder that returns", remedy="correct it, or its options", error=ModelError
        ),
        Allowance(where),
    ):
        model = builder(*arguments.args, **arguments.kwargs)
    if not isinstance(model, nn.Module):
        raise ModelError(
            where,
            expected="a torch.nn.Module",
            found=f"an object of type {type(model).__name__}",
            remedy="let the builder return the model",
        )
    if weights is not None:
        load_weights(model, weights)
    return model.train(train)


def _arguments(
    builder: Callable[..., Any],
    domain: Domain,
    classes: int,
    seed: int,
    options: dict[str, Any],
    where: str,
) -> inspect.BoundArguments:
    try:
        signature = inspect.signature(builder)
    except (TypeError, ValueError) as error:
        raise ModelError(
            where,
            expected="a callable with a signature: (domain, classes, ...) or none required",
            found=str(error),
            remedy="wrap it in a Python function",
        ) from error
    positional = (domain, classes) if _takes_domain(signature) else ()
    if "seed" in signature.parameters:
        options = {**options, "seed": seed}
    try:
        return signature.bind(*positional, **options)
    except TypeError as error:
        raise ModelError(
            where,
            expected=f"arguments for {signature}",
            found=f"options {sorted(options)}: {error}",
            remedy="mend the options, or the builder's parameters",
        ) from error


def _takes_domain(signature: inspect.Signature) -> bool:
    """Whether the builder is for any domain, or a factory that needs no argument."""
    parameters = list(signature.parameters.values())
    if "domain" in signature.parameters or any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return True
    return any(p.kind in _POSITIONAL and p.default is p.empty for p in parameters)
