"""Sentences in the public domain that come with the package, as tokens of whole words."""

from __future__ import annotations

import re
from importlib import resources

import torch

from leakgauge.core import TextDomain
from leakgauge.data.dataset import Dataset

WORD = re.compile(r"[a-z]+(?:'[a-z]+)*|[^\sa-z]")
"""A word in small letters, or one other character."""
PAD = "[PAD]"
BOOKS = ("Alice's Adventures in Wonderland", "Pride and Prejudice")
"""Names of the two classes."""


def sentences() -> Dataset:
    """Load 60 short sentences of two novels. The class is the novel.

    The vocabulary is a public list of 599 words and marks, besides the padding. It holds every word
    of the sentences, and more other words. Letters are small. No other package is needed.

    Returns:
        Inputs (60, 22), tokens of whole words with padding 0 at the end. The target is 0 for Alice's
        Adventures in Wonderland, and 1 for Pride and Prejudice.

    References:
        Carroll. Alice's Adventures in Wonderland. 1865.

        Austen. Pride and Prejudice. 1813.

    Example:
        >>> import leakgauge as lg
        >>> data = lg.data.sentences()
        >>> data.domain.text(data.inputs[4])
        'do cats eat bats?'
    """
    vocabulary = [PAD, *_lines("words.txt")]
    number = {word: i for i, word in enumerate(vocabulary)}
    rows = [line.split("\t") for line in _lines("sentences.tsv")[1:]]
    tokens = [[number[word] for word in WORD.findall(text.lower())] for _, text in rows]
    length = max(map(len, tokens))
    names = sorted({label for label, _ in rows})
    return Dataset(
        name="sentences",
        inputs=torch.tensor([row + [0] * (length - len(row)) for row in tokens]),
        targets=torch.tensor([names.index(label) for label, _ in rows]),
        domain=TextDomain(
            vocabulary=len(vocabulary),
            length=length,
            pad=0,
            pieces=("", *(f" {w}" if w[0].isalpha() else w for w in vocabulary[1:])),
        ),
        classes=len(BOOKS),
        class_names=BOOKS,
        licence="public domain (Carroll 1865, Austen 1813)",
    )


def _lines(name: str) -> list[str]:
    """Return the lines of a file of this package."""
    text = resources.files("leakgauge.data").joinpath(name).read_text(encoding="utf-8")
    return text.splitlines()
