"""Sentences for the gallery: runs of tokens that were read in the same way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from leakgauge.records import Cell, Sentence, Sentences

MEANINGS = {
    "place": "read at its place",
    "sentence": "read, but at another place of the sentence",
    "batch": "read, but in another sentence of the batch",
    "nowhere": "not read",
}
"""What it means for a token of an original that it was read in a way of the records."""
CONTROLS = str.maketrans({"\n": "\u21b5", "\t": "\u21e5"})
"""Signs in place of characters without a glyph."""


@dataclass(frozen=True)
class Span:
    """Neighboring tokens that were read in the same way.

    Args:
        read: How they were read, as in the record.
        before: The space in front of them, outside of the highlight.
        text: Their text.
        count: Number of tokens.
    """

    read: str
    before: str
    text: str
    count: int


@dataclass(frozen=True)
class Line:
    """One sentence of one side.

    Args:
        spans: Its tokens.
        missing: Why it has none, or an empty text.
    """

    spans: list[Span]
    missing: str = ""


def lines(cell: Cell, i: int) -> dict[str, Line]:
    """Return the sentences of example `i` by side: the original, the reconstruction and the control."""
    found = {side: line(getattr(cell.sentences, side, ()), i) for side in Sentences.model_fields}
    if cell.found[i : i + 1] == (False,):
        # Where nothing was found, the record holds a placeholder.
        found["reconstruction"] = Line([], "nothing was found")
        spans = [replace(span, read="nowhere") for span in found["original"].spans]
        found["original"] = replace(found["original"], spans=spans)
    return found


def line(sentences: Sequence[Sentence], i: int) -> Line:
    """Return sentence `i`, or a line without tokens if it is missing."""
    if i >= len(sentences):
        return Line([], "no sentence")
    if not sentences[i]:
        return Line([], "no tokens")
    spans = [
        span(read, [token.text for token in group])
        for read, group in groupby(sentences[i], key=lambda token: token.read)
    ]
    return Line([replace(spans[0], before=""), *spans[1:]])


def span(read: str, pieces: Sequence[str]) -> Span:
    """Return one span of tokens. Spaces in front of it are outside of the highlight."""
    whole = "".join(pieces)
    text = whole.lstrip(" ")
    return Span(read, whole[: len(whole) - len(text)], text.translate(CONTROLS), len(pieces))
