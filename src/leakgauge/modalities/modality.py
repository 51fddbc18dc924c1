"""The base class of modalities. Everything that depends on the kind of data is in a modality."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from leakgauge import metrics
from leakgauge.core import Column, Domain, space_of
from leakgauge.metrics.leak import LeakRule
from leakgauge.records import Headline, Rows, Sentences, Sides

Metric = Callable[[Tensor, Tensor], Tensor]
"""A function from originals and reconstructions (B, ...), in the modality's coordinates, to one value for each (B,)."""
Save = Callable[[str, bytes], str]
"""A function from the name and the bytes of a file to its path in the folder of the run."""
Layout = Literal["pictures", "rows", "sentences"]


@dataclass(frozen=True, kw_only=True)
class Content:
    """The examples that a reader sees: original, reconstruction and control, as a record holds them.

    Args:
        images: Paths of pictures, for the layout "pictures".
        rows: Values of each column, for the layout "rows".
        sentences: Tokens of each sentence, for the layout "sentences".

    Example:
        >>> import leakgauge as lg
        >>> lg.modalities.Content().images is None
        True
    """

    images: Sides | None = None
    rows: Rows | None = None
    sentences: Sentences | None = None


class Modality(ABC):
    """The base class of modalities: how examples of one kind of data are scored, judged and shown.

    A user's own domain may have its own modality, as its property `modality`. A subclass sets
    `headline`, `layout` and `rule`, and implements `metrics`. All other methods have defaults for any
    data.

    Example:
        >>> import leakgauge as lg
        >>> class Sounds(lg.modalities.UnknownModality):
        ...     def metrics(self, domain, decoys):
        ...         return {"psnr": lg.metrics.psnr}
        >>> Sounds().headline.metric
        'psnr'
    """

    headline: ClassVar[Headline]
    """The score that stands for leakage, with the words for its values."""
    layout: ClassVar[Layout]
    """The layout of an example on a page."""
    rule: ClassVar[LeakRule | None] = None
    """The rule by which an example counts as leaked. With None, no example is judged."""

    @abstractmethod
    def metrics(self, domain: Domain, decoys: Tensor) -> dict[str, Metric]:
        """Return the metrics that are meaningful on this domain, by name.

        Args:
            domain: The domain of the examples.
            decoys: Other examples `(N, *shape)` in the domain's units, possibly none. Identification
                asks whether a reconstruction is closer to its original than to all of them.
        """

    def coordinates(self, domain: Domain, examples: Tensor) -> Tensor:
        """Return examples `(B, *shape)` in the coordinates in which metrics compare them: unit coordinates.

        Discrete values may have too many relaxed variables for memory, such as tokens of a large
        vocabulary. A subclass may then return the examples unchanged, and define its own `assignment`
        and metrics.
        """
        return domain.to_unit(examples)

    def in_range(self, domain: Domain, guess: Tensor) -> Tensor:
        """Return the coordinates of reconstructions, clamped to [0, 1].

        The range is public, so any adversary would clamp. Reconstructions in a discrete domain are
        already valid.
        """
        found = self.coordinates(domain, guess)
        return found if space_of(domain).discrete else found.clamp(0, 1)

    def assignment(self, domain: Domain, truth: Tensor, guess: Tensor) -> Tensor:
        """Return the index (B,) of the reconstruction for each original, with the least total squared error."""
        return metrics.assign(self.coordinates(domain, truth), self.coordinates(domain, guess))

    def columns(self, domain: Domain) -> tuple[Column, ...]:
        """Return the columns of an example in the layout "rows", or an empty tuple in other layouts."""
        return ()

    def content(self, sides: Mapping[str, Tensor], save: Save) -> Content:
        """Return the examples that a reader sees.

        Args:
            sides: Examples `(B, *shape)` by the names original, reconstruction and control. A control
                that failed has no examples.
            save: A function that saves a file, and returns its path.
        """
        return Content()

    def content_of(self, domain: Domain, sides: Mapping[str, Tensor], save: Save) -> Content:
        """Return the examples that a reader sees, if they depend on the domain. By default they do not.

        Args:
            domain: The domain of the examples.
            sides: Examples as for `content`.
            save: A function that saves a file, and returns its path.
        """
        return self.content(sides, save)

    def glance(self, examples: Tensor) -> bytes | None:
        """Return one PNG of examples `(B, *shape)` during an attack, or None if they have no picture."""
        return None

    def compared_by(self, domain: Domain) -> str | None:
        """Return the name of the network or package that compares examples, or the reason why none can.

        Return None if neither compares data of this kind.
        """
        return None
