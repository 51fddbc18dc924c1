"""Checks of what a defense returns at each seam, before anything uses it. The defense may be a user's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from leakgauge.core.defense import Defense
from leakgauge.core.errors import SpecificationError, UpdateError
from leakgauge.core.kinds import describe_value
from leakgauge.core.protocols import LocalTraining
from leakgauge.core.seeds import Seeds
from leakgauge.core.update import Update


def defend_batch(
    defense: Defense, inputs: Tensor, targets: Tensor, *, seeds: Seeds
) -> tuple[Tensor, Tensor]:
    """Return the inputs `(B, *shape)` and targets (B,) or (B, K) that a client trains on.

    Args:
        defense: The defense of the client.
        inputs: The private inputs.
        targets: The private targets.
        seeds: The source of the defense's random draws.

    Raises:
        SpecificationError: The defense returned something else.
    """
    given: Any = defense.on_batch(inputs, targets, seeds=seeds)
    pair = isinstance(given, tuple) and len(given) == 2
    if not pair or not all(isinstance(each, Tensor) for each in given):
        raise mistake_of_defense(
            defense, "on_batch", "a tuple of inputs and targets", describe_value(given)
        )
    shown, wanted = given
    if shown.dtype != inputs.dtype:
        raise mistake_of_defense(
            defense, "on_batch", f"inputs of type {inputs.dtype}", str(shown.dtype)
        )
    if wanted.dtype not in (targets.dtype, inputs.dtype):
        kinds = " or ".join(dict.fromkeys((str(targets.dtype), str(inputs.dtype))))
        raise mistake_of_defense(defense, "on_batch", f"targets of type {kinds}", str(wanted.dtype))
    if shown.ndim == 0 or wanted.ndim == 0 or not 0 < len(shown) == len(wanted):
        sizes = f"shapes {tuple(shown.shape)} and {tuple(wanted.shape)}"
        raise mistake_of_defense(
            defense, "on_batch", "as many targets as inputs, at least one", sizes
        )
    return shown, wanted


def defend_training(defense: Defense, training: LocalTraining, *, seeds: Seeds) -> LocalTraining:
    """Return the local training that a client runs.

    Args:
        defense: The defense of the client.
        training: The local training without the defense.
        seeds: The source of the defense's random draws.

    Raises:
        SpecificationError: The defense returned something else.
    """
    given: Any = defense.on_training(training, seeds=seeds)
    if isinstance(given, type) or not isinstance(given, LocalTraining):
        expected = "an object with the methods of LocalTraining"
        raise mistake_of_defense(defense, "on_training", expected, describe_value(given))
    return given


def check_update(defense: Defense, given: Any) -> Update:
    """Return an object unchanged if it is an Update, as `on_update` of a defense must return.

    Args:
        defense: The defense, for the message.
        given: The object that `on_update` returned.

    Raises:
        SpecificationError: The object is not an Update.
    """
    if not isinstance(given, Update):
        raise mistake_of_defense(
            defense, "on_update", "an Update, such as update.map(...)", describe_value(given)
        )
    return given


def check_shared(
    defense: Defense | None, trained: Update, shared: Update, parameters: Mapping[str, Tensor]
) -> None:
    """Raise UpdateError if the update does not fit the model, or is not finite.

    The message names the defense if the update was valid before the defense changed it.

    Args:
        defense: The defense that made the update, or None if there is none.
        trained: The update before the defense.
        shared: The update after the defense.
        parameters: Trainable parameters of the model, by name.
    """
    try:
        shared.check(parameters)
    except UpdateError as error:
        if defense is None:
            raise
        # If the update fails before the defense already, the training is to blame.
        trained.check(parameters)
        raise UpdateError(
            f"{place(defense, 'on_update')}, {error.where}",
            expected=error.expected,
            found=error.found,
            remedy=error.remedy,
        ) from error


def place(defense: Defense, seam: str) -> str:
    """Return the place of a mistake: the defense and its method."""
    return f"defense {type(defense).__name__}, {seam}"


def mistake_of_defense(
    defense: Defense, seam: str, expected: str, found: str
) -> SpecificationError:
    """Return the error for a defense that returned something else than expected."""
    where = place(defense, seam)
    return SpecificationError(
        where, expected=expected, found=found, remedy="correct the value that this method returns"
    )
