"""What a modality says of a domain's examples. Everything that depends on the kind of data is asked here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from leakgauge import metrics
from leakgauge.core import Column, Domain, space_of
from leakgauge.metrics.leak import LeakRule
from leakgauge.records import Headline, Rows, Sides

Metric = Callable[[Tensor, Tensor], Tensor]
"""Truth and guess in the modality's coordinates (B, ...) to one value for each example (B,)."""
Save = Callable[[str, bytes], str]
"""A file's name and its bytes to its path in the folder of the run."""
Layout = Literal["pictures", "rows"]


@dataclass(frozen=True, kw_only=True)
class Content:
    """What a reader looks at, original beside reconstruction beside control, as a record holds it.

    Args:
        images: paths of pictures, for the layout "pictures".
        rows: values for each column, for the layout "rows".
    """

    images: Sides | None = None
    rows: Rows | None = None


class Modality(ABC):
    """How examples of one kind of data are scored, judged and shown.

    A domain of a user's own brings one as its property `modality`. A subclass sets `headline`, `layout` and `rule`, and
    implements `metrics`. The methods below have defaults that hold for any data.
    """

    headline: ClassVar[Headline]
    """The score that stands for leakage, and how it reads."""
    layout: ClassVar[Layout]
    """How a page shows an example."""
    rule: ClassVar[LeakRule | None] = None
    """When an example counts as leaked. None: nothing is judged."""

    @abstractmethod
    def metrics(self, domain: Domain, decoys: Tensor) -> dict[str, Metric]:
        """Return the metrics that mean something on this domain, by name.

        Args:
            decoys: other examples (N, *shape) in the domain's units, among which a guess must point at its own
                original. There may be none.
        """

    def coordinates(self, domain: Domain, examples: Tensor) -> Tensor:
        """Return examples (B, *shape) as metrics compare them: in unit coordinates.

        Discrete values whose relaxed variables are too many to hold, such as tokens of a large vocabulary, may return
        the examples themselves, with an `assignment` and metrics of their own.
        """
        return domain.to_unit(examples)

    def in_range(self, domain: Domain, guess: Tensor) -> Tensor:
        """Return the coordinates of guesses, moved into [0, 1]: the range is public, so any adversary would.

        Guesses of a discrete domain are valid already.
        """
        found = self.coordinates(domain, guess)
        return found if space_of(domain).discrete else found.clamp(0, 1)

    def assignment(self, domain: Domain, truth: Tensor, guess: Tensor) -> Tensor:
        """Return the index (B,) of the guess that stands for each original, by the least total squared error."""
        return metrics.assign(self.coordinates(domain, truth), self.coordinates(domain, guess))

    def columns(self, domain: Domain) -> tuple[Column, ...]:
        """Return the columns of an example in the layout "rows", and none in other layouts."""
        return ()

    def content(self, sides: Mapping[str, Tensor], save: Save) -> Content:
        """Return what a reader looks at.

        Args:
            sides: examples (B, *shape) named original, reconstruction and control. A control that failed has none.
        """
        return Content()

    def glance(self, examples: Tensor) -> bytes | None:
        """Return one PNG of examples (B, *shape) under way, or None if they cannot be pictured."""
        return None

    def compared_by(self, domain: Domain) -> str | None:
        """Return by which network examples were compared, or why by none, or None if there is none for this kind."""
        return None
