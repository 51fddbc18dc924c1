"""Every error that LeakGauge raises on purpose.

LeakGaugeError
├── UserError                 a mistake that the user can mend: one line, exit code 2
│   ├── SpecificationError    a name, type or range in a specification
│   ├── DataError             a data set, a batch, a file of examples
│   ├── ModelError            a model or a loss that cannot be audited as given
│   ├── UpdateError           an update with non-finite values or unknown tensors
│   ├── KnowledgeError        an attack needs knowledge that the threat model does not grant
│   └── OutputError           a folder or file that cannot be written
│       └── OutputLost        it could be written at first: a full disk, a folder that is gone
├── AttackError               an attack failed on a user's model or loss
└── ProbeError                a user's model or loss failed on a probe of what it is
"""

from __future__ import annotations

from leakgauge.core.lines import one_line

LONGEST = 1500
"""Characters of a message's part that are shown."""
PLACE = 300
"""Characters of where a mistake is that are shown."""
FOUND = 700
"""Characters of what was found that are shown. It is others', and may be of any length."""


class LeakGaugeError(Exception):
    """Root of the tree."""


class UserError(LeakGaugeError):
    """A mistake with its remedy, told in one line: what was expected, what was found, what to do."""

    def __init__(self, where: str, *, expected: str, found: str, remedy: str) -> None:
        self.where, self.expected, self.found, self.remedy = where, expected, found, remedy
        # Names and contents of files are others': none may break the line, nor fill a screen.
        parts = map(one_line, (where, expected, found, remedy), (PLACE, LONGEST, FOUND, LONGEST))
        super().__init__("{}: expected {}; found {}; {}".format(*parts))

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive the default pickling between worker processes.
        return (_rebuild, (type(self), self.where, self.expected, self.found, self.remedy))


def _rebuild(
    kind: type[UserError], where: str, expected: str, found: str, remedy: str
) -> UserError:
    return kind(where, expected=expected, found=found, remedy=remedy)


class SpecificationError(UserError):
    """A name, type or range in a specification."""


class DataError(UserError):
    """A data set, a batch, a file of examples."""


class ModelError(UserError):
    """A model or a loss that cannot be audited as given."""


class UpdateError(UserError):
    """An update with non-finite values, or tensors that the model does not have."""


class KnowledgeError(UserError):
    """An attack needs knowledge that the threat model does not grant."""


class OutputError(UserError):
    """A folder or file that cannot be written."""


class OutputLost(OutputError):
    """A folder that could be written when a run began, and cannot any more. Records before it are whole."""


class AttackError(LeakGaugeError):
    """An attack failed on a user's model or loss. Its cause is the exception that ended it."""


class ProbeError(LeakGaugeError):
    """A user's model or loss failed on a probe. An attack's check turns it into a reason not to run."""
