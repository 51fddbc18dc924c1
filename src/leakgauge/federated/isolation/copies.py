"""Copies of what a user passes in, so that client, adversary and caller share no object that can be written to."""

from __future__ import annotations

from typing import TypeVar

from leakgauge.core import ModelError, copied
from leakgauge.core.lines import describe_error

T = TypeVar("T")


def own_copy(value: T, name: str) -> T:
    """Return a deep copy of a loss, a local training, a defense or a domain. Functions are not copied.

    Raises:
        ModelError: the object cannot be copied.
    """
    try:
        return copied(value)
    # A user's object can refuse to be copied in any way that Python knows.
    except Exception as error:
        raise ModelError(
            name,
            expected="an object that copy.deepcopy can copy, so that the adversary gets its own",
            found=describe_error(error),
            remedy="keep no open file, lock or generator on it",
        ) from error


__all__ = ["own_copy"]
