"""What a defense returns at its seams, checked before anything uses it. A defense may be a user's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from leakgauge.core.defense import Defense
from leakgauge.core.errors import SpecificationError, UpdateError
from leakgauge.core.kinds import found
from leakgauge.core.protocols import LocalTraining
from leakgauge.core.seeds import Seeds
from leakgauge.core.update import Update


def defended_batch(
    defense: Defense, inputs: Tensor, targets: Tensor, *, seeds: Seeds
) -> tuple[Tensor, Tensor]:
    """Return inputs (B, *shape) and targets (B,) or (B, K) as a client trains on them.

    Raises:
        SpecificationError: the defense returned something else.
    """
    given: Any = defense.on_batch(inputs, targets, seeds=seeds)
    pair = isinstance(given, tuple) and len(given) == 2
    if not pair or not all(isinstance(each, Tensor) for each in given):
        raise mistake(defense, "on_batch", "a tuple of inputs and targets", found(given))
    shown, told = given
    if shown.dtype != inputs.dtype:
        raise mistake(defense, "on_batch", f"inputs of type {inputs.dtype}", str(shown.dtype))
    if told.dtype not in (targets.dtype, inputs.dtype):
        kinds = " or ".join(dict.fromkeys((str(targets.dtype), str(inputs.dtype))))
        raise mistake(defense, "on_batch", f"targets of type {kinds}", str(told.dtype))
    if shown.ndim == 0 or told.ndim == 0 or not 0 < len(shown) == len(told):
        sizes = f"shapes {tuple(shown.shape)} and {tuple(told.shape)}"
        raise mistake(defense, "on_batch", "as many targets as inputs, at least one", sizes)
    return shown, told


def defended_training(defense: Defense, training: LocalTraining, *, seeds: Seeds) -> LocalTraining:
    """Return the local training that a client runs.

    Raises:
        SpecificationError: the defense returned something else.
    """
    given: Any = defense.on_training(training, seeds=seeds)
    if isinstance(given, type) or not isinstance(given, LocalTraining):
        expected = "an object with the methods of LocalTraining"
        raise mistake(defense, "on_training", expected, found(given))
    return given


def checked_update(defense: Defense, given: Any) -> Update:
    """Return what a defense made of an update.

    Raises:
        SpecificationError: it is no update.
    """
    if not isinstance(given, Update):
        raise mistake(defense, "on_update", "an Update, such as update.map(...)", found(given))
    return given


def check_shared(
    defense: Defense | None, trained: Update, shared: Update, parameters: Mapping[str, Tensor]
) -> None:
    """Raise UpdateError unless a client can share an update. It names the defense that is to blame.

    Args:
        trained: the update before the defense.
        shared: the update after it.
        parameters: of the model, by name.
    """
    try:
        shared.check(parameters)
    except UpdateError as error:
        if defense is None:
            raise
        # The training is to blame if its own update fails.
        trained.check(parameters)
        raise UpdateError(
            f"{place(defense, 'on_update')}, {error.where}",
            expected=error.expected,
            found=error.found,
            remedy=error.remedy,
        ) from error


def place(defense: Defense, seam: str) -> str:
    """Return where a mistake is: the defense and its method."""
    return f"defense {type(defense).__name__}, {seam}"


def mistake(defense: Defense, seam: str, expected: str, found: str) -> SpecificationError:
    """Return the error of a defense that returned something else than expected."""
    where = place(defense, seam)
    return SpecificationError(
        where, expected=expected, found=found, remedy="correct what it returns"
    )
