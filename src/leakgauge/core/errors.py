"""Every error that LeakGauge raises on purpose.

The classes form a tree::

    LeakGaugeError
    ├── UserError                 a mistake that the user can correct: one line, exit code 2
    │   ├── SpecificationError    a name, type or range of an option
    │   ├── DataError             a data set, a batch, or a file of examples or records
    │   ├── ModelError            a model or a loss that cannot be audited
    │   ├── UpdateError           an update with non-finite values or unknown tensors
    │   ├── KnowledgeError        an attack needs knowledge that the threat model does not grant
    │   └── OutputError           a folder or file that cannot be written
    │       └── OutputLost        an output that failed while the run was writing: exit code 1
    ├── AttackError               an attack failed on a user's model or loss
    └── ProbeError                a user's model or loss failed on a probe
"""

from __future__ import annotations

from leakgauge.core.lines import one_line

LONGEST = 1500
"""Most characters that a message shows of what was expected, and of the remedy."""
PLACE = 300
"""Most characters that a message shows of the place of a mistake."""
FOUND = 700
"""Most characters that a message shows of what was found. The text may come from a file, and have any length."""


class LeakGaugeError(Exception):
    """Base of every error that LeakGauge raises on purpose.

    Catch it to handle all of them. The command prints each as one line.

    Example:
        >>> import leakgauge as lg
        >>> try:
        ...     lg.Column("age", low=90, high=18)
        ... except lg.LeakGaugeError as error:
        ...     print(error)
        column 'age': expected a finite low below a finite high; found 90 and 18; give the column's public range
    """


class UserError(LeakGaugeError):
    """A mistake that the user can correct.

    Its message is one line: the place, what was expected, what was found, and what to do. The
    command ends with exit code 2, or 1 for OutputLost.

    Args:
        where: The place of the mistake, for example an option, a file or a column.
        expected: What was expected there.
        found: What was found instead.
        remedy: What to do, as an order.
    """

    def __init__(self, where: str, *, expected: str, found: str, remedy: str) -> None:
        self.where, self.expected, self.found, self.remedy = where, expected, found, remedy
        # The parts may quote names and contents of files. These must not break the line or fill the
        # screen.
        parts = map(one_line, (where, expected, found, remedy), (PLACE, LONGEST, FOUND, LONGEST))
        super().__init__("{}: expected {}; found {}; {}".format(*parts))

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive the default pickling between worker processes.
        return (_rebuild, (type(self), self.where, self.expected, self.found, self.remedy))


def _rebuild(
    kind: type[UserError], where: str, expected: str, found: str, remedy: str
) -> UserError:
    """Return an error of class `kind` with these parts. Unpickling calls it."""
    return kind(where, expected=expected, found=found, remedy=remedy)


class SpecificationError(UserError):
    """An option has an unknown name, a wrong type, or a value out of range.

    It is raised for a specification in TOML and for objects in Python, mostly before any compute.
    Correct the option that the message names.
    """


class DataError(UserError):
    """A data set, a batch, or a file of examples or records cannot be used.

    It is raised when data are loaded, converted or compared. Correct the data, or state their
    ranges, as the message says.
    """


class ModelError(UserError):
    """A model or a loss cannot be audited.

    It is raised when a model is built or tried out. For example, it is too large, lacks a layer, or
    its output does not fit the classes. Change the model, or choose another attack or defense.
    """


class UpdateError(UserError):
    """An update has non-finite values, or its tensors do not match the model's parameters.

    It is raised when an update is computed, loaded or attacked. Pass the model that the update was
    computed on. For NaN or infinity, lower the learning rate or the strength of the defense.
    """


class KnowledgeError(UserError):
    """An attack needs knowledge that the threat model does not grant.

    It is raised before any compute. Grant the knowledge in the threat model, or choose an attack
    that recovers it.
    """


class OutputError(UserError):
    """A folder or a file cannot be written.

    It is raised before a run begins, or when a file is saved. Check the folder, its rights and the
    free space.
    """


class OutputLost(OutputError):
    """An output that could be written when the run began cannot be written any more.

    It is raised when a disk is full, a folder is gone, or standard output is closed. Records before
    it are whole. Free space, and run again into another folder.
    """


class AttackError(LeakGaugeError):
    """An attack failed on a user's model or loss, or returned an invalid result.

    It is raised by `BaseAttack` and `Plan`. `__cause__` holds the exception that ended the attack,
    if there was one. Correct the attack, the model or the loss that it names. An audit records the
    failure and goes on.
    """


class ProbeError(LeakGaugeError):
    """A user's model or loss failed on a probe.

    A probe is a call on made-up examples that shows whether a method applies. `BaseAttack.plan`
    turns this error into an `Inapplicable`. Make the model accept any batch of its domain.
    """
