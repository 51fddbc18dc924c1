"""Sentences in records: the text of each token, and where the token was read."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from leakgauge.records.values import Many, Part, Text

Reading = Literal["place", "sentence", "batch", "nowhere"]
"""Where a token stands in the sequence that it is compared with."""


class Sentence(Part):
    """One sequence of tokens, without those that stand for no text."""

    pieces: Many[Text] = Field(
        description="Text of each token, with a leading space where a word begins."
    )
    read: Many[Reading] = Field(
        description='Where each token was read. "place": at its place. "sentence": at another place of the '
        'sentence. "batch": in another sentence of the batch. Tokens of an original are looked for in the '
        "reconstruction. Other tokens are looked for in the original."
    )

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        """Raise ValueError unless there is one reading for each token."""
        if len(self.pieces) != len(self.read):
            raise ValueError("one entry of `read` for each of `pieces`")
        return self


class Sentences(Part):
    """Sentences token by token, one for each example."""

    original: Many[Sentence] = Field(description="The private sentences.")
    reconstruction: Many[Sentence] = Field(description="The reconstructions by the adversary.")
    control: Many[Sentence] = Field(
        description="The reconstructions by the blind control, from another update. Empty if the control failed."
    )
