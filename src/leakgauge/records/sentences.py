"""Sentences in records: the text of each token, and where the token was read."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from leakgauge.records.values import Many, Part, Text

Reading = Literal["place", "sentence", "batch", "nowhere"]
"""Where a token stands in the sequence that it is compared with."""


class Token(Part):
    """One token of a sentence."""

    text: Text = Field(description="Its text, with a leading space where a word begins.")
    read: Reading = Field(
        description='Where it was read. "place": at its place. "sentence": at another place of the sentence. '
        '"batch": in another sentence of the batch. Tokens of an original are looked for in the reconstruction. '
        "Other tokens are looked for in the original."
    )


Sentence = tuple[Token, ...]
"""The tokens of one sentence, without those that stand for no text."""


class Sentences(Part):
    """Sentences token by token, one for each example. Tokens that stand for no text are left out."""

    original: Many[Many[Token]] = Field(description="The private sentences.")
    reconstruction: Many[Many[Token]] = Field(description="The reconstructions by the adversary.")
    control: Many[Many[Token]] = Field(
        description="The reconstructions by the blind control, from another update. Empty if the control failed."
    )
