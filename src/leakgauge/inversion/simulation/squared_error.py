"""Squared error from elementary operations, since `torch.func` cannot differentiate `mse_loss` forward over reverse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from leakgauge.core import Loss
from leakgauge.federated.isolation.untouched import value_of


def with_elementary_squares(loss: Loss) -> Loss:
    """Return the same loss, with each call of `mse_loss` computed by elementary operations."""

    def value(outputs: Tensor, targets: Tensor) -> Tensor:
        with _Elementary():
            return value_of(loss, outputs, targets)

    return value


class _Elementary(TorchFunctionMode):
    """A mode that replaces `torch.nn.functional.mse_loss`."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        legacy = {key for key, value in given.items() if value is not None} - {
            "input",
            "target",
            "reduction",
        }
        if func is functional.mse_loss and not legacy and len(args) <= 2:
            return _mse(*args, **{k: v for k, v in given.items() if v is not None})
        return func(*args, **given)


def _mse(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Return the mean squared error, its sum, or the squared errors, from elementary operations."""
    squares = (input - target).square()
    if reduction == "none":
        return squares
    return squares.mean() if reduction == "mean" else squares.sum()


__all__ = ["with_elementary_squares"]
