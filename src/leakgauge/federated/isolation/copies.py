"""Copies of a user's objects, so that client, adversary and caller share no object that can change."""

from __future__ import annotations

from typing import TypeVar

from leakgauge.core import ModelError, deep_copy
from leakgauge.core.lines import describe_error

T = TypeVar("T")


def own_copy(value: T, name: str) -> T:
    """Return a deep copy of a loss, a local training, a defense or a domain. Functions are not copied.

    Raises:
        ModelError: The object cannot be copied.
    """
    try:
        return deep_copy(value)
    # A copy of a user's object can raise any exception.
    except Exception as error:
        raise ModelError(
            name,
            expected="an object that copy.deepcopy can copy, so that the adversary gets its own copy",
            found=describe_error(error),
            remedy="remove open files, locks and generators from its attributes",
        ) from error


__all__ = ["own_copy"]
