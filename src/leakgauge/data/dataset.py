"""The data set that every loader returns."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from leakgauge.core import DataError, Domain, dtype_of, space_of
from leakgauge.core.allowance import memory
from leakgauge.core.ranges import check_fields
from leakgauge.core.references import guard_user_code
from leakgauge.core.summaries import Summarized

# Units in float32 do not map the ends of a column's range to exactly 0 and 1.
_ROUNDING = 1e-5

MOST_CLASSES = 2**16
"""Most classes of a data set. The loss is measured on each class, so the time grows with their square."""


MOST_VALUES = 2**31
"""Most numbers in all examples of a data set that comes from files or from a user's code. In float32: 8 GiB."""
CHUNK = 1 << 26
"""Most relaxed variables of a data set that are checked in one step."""
BYTES_A_VALUE = 16
"""Bytes of memory for each number that is read: its float32, its unit coordinate and their checks."""


def most_values() -> int:
    """Return the most numbers in the examples of a data set: MOST_VALUES, or fewer if memory is small."""
    return min(MOST_VALUES, memory() // BYTES_A_VALUE)


def check_values(count: int, where: str) -> None:
    """Raise DataError if `count` numbers are more than `most_values` allows."""
    most = most_values()
    if count > most:
        raise DataError(
            where,
            expected=f"at most {most:,} numbers in all examples, for the memory of this machine",
            found=f"{count:,} numbers",
            remedy="give fewer or smaller examples: an audit needs only a few batches",
        )


@dataclass(frozen=True, eq=False, repr=False)
class Dataset(Summarized):
    """Labeled examples of one domain, in the units of the domain.

    Args:
        name: Name of the data set, for reports.
        inputs: Examples `(N, *shape)` with the shape and type of the domain, float32 by default.
        targets: Class labels (N,) of int64, from 0.
        domain: The space of the examples.
        classes: Number of classes, from 1 to 65,536, or None if it is unknown.
        class_names: One name for each class, or none.
        licence: The licence of the data.

    Raises:
        DataError: Shapes, types, labels or names do not fit together. Or a value is not finite, lies
            outside the domain's range, or is not valid, such as a fraction in an integer column.

    Example:
        >>> import torch
        >>> import leakgauge as lg
        >>> domain = lg.ImageDomain(channels=1, height=8, width=8)
        >>> inputs, targets = torch.rand(3, 1, 8, 8), torch.tensor([0, 1, 1])
        >>> len(lg.Dataset("mine", inputs, targets, domain, classes=2))
        3
    """

    name: str
    inputs: Tensor
    targets: Tensor
    domain: Domain
    classes: int | None = None
    class_names: tuple[str, ...] = ()
    licence: str = "unknown"

    def __post_init__(self) -> None:
        """Raise DataError unless the fields fit together."""
        check_fields(self, DataError)
        self._check_inputs()
        self._check_targets()

    def __len__(self) -> int:
        return len(self.inputs)

    def _check_inputs(self) -> None:
        """Raise DataError unless the inputs are valid examples of the domain."""
        shape = tuple(self.domain.shape)
        if tuple(self.inputs.shape[1:]) != shape or self.inputs.numel() == 0:
            raise self._error(
                expected=f"at least one example, each of shape {shape}, none of its sides 0",
                found=f"inputs of shape {tuple(self.inputs.shape)}",
                remedy="give inputs (N, *shape) with the shape of the domain",
            )
        dtype = dtype_of(self.domain)
        if self.inputs.dtype != dtype:
            named = str(dtype).removeprefix("torch.")
            raise self._error(
                expected=f"{named} inputs",
                found=str(self.inputs.dtype),
                remedy=f"convert them to {named} in the domain's units (images: [0, 1])",
            )
        if not bool(torch.isfinite(self.inputs).all()):
            raise self._error(
                expected="finite inputs",
                found=f"{int((~torch.isfinite(self.inputs)).sum())} NaN or infinite values",
                remedy="drop or impute those examples",
            )
        with guard_user_code(
            f"data set {self.name!r}",
            "values that the domain maps to its search space",
            remedy="correct the values, or the map of the domain",
            error=DataError,
        ):
            low, high, wrong = self._mapped()
        if low < -_ROUNDING or high > 1 + _ROUNDING:
            raise self._error(
                expected="values inside the domain's range, [0, 1] in unit coordinates",
                found=f"unit coordinates from {low:.4g} to {high:.4g}",
                remedy="scale images to [0, 1], or widen the public range of the columns",
            )
        if wrong:
            raise self._error(
                expected="valid examples, such as whole numbers in integer columns",
                found=f"{len(wrong)} that are not, the first is example {wrong[0]}",
                remedy="round their values, or declare the columns real",
            )

    def _mapped(self) -> tuple[float, float, list[int]]:
        """Return the smallest and the largest unit coordinate, and the examples that a discrete domain lacks."""
        space = space_of(self.domain)
        low, high, wrong = math.inf, -math.inf, list[int]()
        # There may be many more relaxed variables than values: a token has one for each word.
        count = max(1, CHUNK // math.prod(space.shape))
        for start, part in zip(
            range(0, len(self.inputs), count), torch.split(self.inputs, count), strict=True
        ):
            unit = space.relax(part)
            low, high = min(low, float(unit.min())), max(high, float(unit.max()))
            if space.discrete:
                apart = (space.relax(space.round(unit)) - unit).abs() > _ROUNDING
                wrong += (start + apart.flatten(1).any(1).nonzero().flatten()).tolist()
        return low, high, wrong

    def _check_targets(self) -> None:
        """Raise DataError unless there is one valid class label for each example."""
        if self.targets.dtype != torch.int64 or tuple(self.targets.shape) != (len(self.inputs),):
            raise self._error(
                expected=f"int64 targets of shape ({len(self.inputs)},), one for each example",
                found=f"{self.targets.dtype} of shape {tuple(self.targets.shape)}",
                remedy="give one class index for each example",
            )
        if self.classes is not None and not 1 <= self.classes <= MOST_CLASSES:
            raise self._error(
                expected=f"from 1 to {MOST_CLASSES:,} classes",
                found=f"{self.classes} classes",
                remedy="number the classes from 0, without gaps",
            )
        low, high = int(self.targets.min()), int(self.targets.max())
        if low < 0 or (self.classes is not None and high >= self.classes):
            raise self._error(
                expected=f"targets from 0{f' to {self.classes - 1}' if self.classes else ''}",
                found=f"targets from {low} to {high}",
                remedy="number the classes from 0, and state their number",
            )
        if self.class_names and len(self.class_names) != self.classes:
            raise self._error(
                expected=f"{self.classes} class names",
                found=f"{len(self.class_names)} names",
                remedy="name every class, or none",
            )

    def _error(self, *, expected: str, found: str, remedy: str) -> DataError:
        """Return a DataError that names the data set."""
        return DataError(f"data set {self.name!r}", expected=expected, found=found, remedy=remedy)
