"""Construction of a model by a builder, of this package or of a user."""

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
    """Build a model from a builder, a seed and options.

    The builder is called as `builder(domain, classes, **options)`. A builder that requires no
    positional argument and names no domain is called as `builder(**options)`. If it has a
    parameter `seed`, it gets the seed. The global random state stays unchanged.

    Args:
        builder: Function or class that returns a `torch.nn.Module`.
        domain: Domain of the examples.
        classes: Number of classes, at least 1.
        seed: Seed of the initial weights.
        weights: Path of a safetensors file, see `load_weights`. By default weights are random.
        train: Whether the model is returned in train mode. By default it is in eval mode.
        **options: Options of the builder.

    Returns:
        The model.

    Raises:
        ModelError: The builder cannot be called with these arguments, raises an exception, or
            returns no module. The model is larger than the limits of `Allowance`, or the weights
            do not fit.

    Example:
        >>> import leakgauge as lg
        >>> from leakgauge.core import ImageDomain
        >>> model = lg.models.build(lg.models.lenet, ImageDomain(3, 32, 32), 10, seed=1, channels=4)
        >>> model.training
        False
    """
    where = f"model {getattr(builder, '__name__', repr(builder))!r}"
    arguments = _arguments(builder, domain, classes, seed, options, where)
    with (
        seeded(seed),
        guard_user_code(
            where,
            "a builder that returns a model",
            remedy="correct the builder or its options",
            error=ModelError,
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
    """Return the arguments for the builder. Raise ModelError if it cannot be called with them."""
    try:
        signature = inspect.signature(builder)
    except (TypeError, ValueError) as error:
        raise ModelError(
            where,
            expected="a function whose parameters can be inspected, such as (domain, classes, ...)",
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
            remedy="correct the options, or the parameters of the builder",
        ) from error


def _takes_domain(signature: inspect.Signature) -> bool:
    """Return whether the builder takes a domain. A factory without required arguments does not."""
    parameters = list(signature.parameters.values())
    if "domain" in signature.parameters or any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return True
    return any(p.kind in _POSITIONAL and p.default is p.empty for p in parameters)
