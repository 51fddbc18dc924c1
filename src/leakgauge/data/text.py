"""A file of a user's own sentences as a data set of tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Le
from torch import Tensor

from leakgauge.core import DataError, TextDomain
from leakgauge.core.files import check_path
from leakgauge.core.ranges import Count, Whole, check_argument
from leakgauge.core.references import guard_user_code
from leakgauge.data.dataset import Dataset, check_values
from leakgauge.data.files import find_file
from leakgauge.data.text_files import Sentences, read_sentences
from leakgauge.data.tokenizer import Vocabulary, load_tokenizer, vocabulary_of

Goal = Literal["classification", "language"]
MOST_NAMES = 1000
"""Most classes whose labels are names."""
MOST_LENGTH = 2**16
"""Most tokens of a sentence."""
Length = Annotated[int, Ge(1), Le(MOST_LENGTH)]


def text(
    path: str | Path,
    tokenizer: str | Path,
    length: Length | None = None,
    *,
    task: Goal | None = None,
    sentence: str | Whole = "sentence",
    label: str | Whole = "label",
    truncate: bool = False,
    pad: str | None = None,
    special_tokens: bool = True,
    most: Count | None = None,
) -> Dataset:
    """Load sentences from a file, as tokens of a local tokenizer. Nothing is downloaded.

    A .tsv or .csv has a column of sentences and a column of labels, which its header names. A .txt
    has one sentence on each line, all of class 0. Files are UTF-8. Fields of a .csv may be in quotes; in a
    .tsv quotes are part of the text. This loader needs the package `tokenizers`, which
    `pip install "leakgauge[text]"` installs.

    Labels that are whole numbers are classes from 0. Any other labels are names: the classes are
    the names in sorted order.

    Sequences are padded at the end, with the padding token of the tokenizer. A tokenizer without
    one, such as that of GPT-2, pads with the token that ends a text, as is usual.

    Args:
        path: The file of sentences. It is looked up as given, then under `$LEAKGAUGE_DATA`, then in
            its subfolders `data` and `data/text`.
        tokenizer: A tokenizer.json, a vocab.txt of WordPiece, or a folder that holds one of them,
            such as the folder of the model. It is looked up like `path`, in `data` and `weights`.
        length: Number of tokens L of each sequence, from 1 to 65,536. None is the length of the
            longest sentence.
        task: "classification", or "language" for the loss of a language model, which has no labels.
            None is classification for a table, and language for a .txt.
        sentence: Name of the column of sentences. In a table without a header, its number from 0.
        label: The same for the column of labels.
        truncate: Whether sentences of more than `length` tokens are cut. By default they are
            refused.
        pad: Name of the padding token, such as "<pad>". None chooses it as described above.
        special_tokens: Whether the tokenizer adds its tokens for the begin and the end of a text.
        most: Number of sentences to read at most, the first ones. None reads all.

    Returns:
        Inputs (N, L), tokens of int64. The domain is a `TextDomain`.

    Raises:
        DataError: The package is missing, or a file is not of this form or not UTF-8. Or a sentence
            is empty or longer than `length`, or a label is missing.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> import leakgauge as lg
        >>> with TemporaryDirectory() as folder:
        ...     words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "fish", "##es"]
        ...     _ = Path(folder, "vocab.txt").write_text("\\n".join(words))
        ...     _ = Path(folder, "mine.tsv").write_text("label\\tsentence\\n1\\tRed fishes\\n")
        ...     data = lg.data.text(Path(folder, "mine.tsv"), folder)  # doctest: +SKIP
        >>> data.inputs, data.domain.text(data.inputs[0])  # doctest: +SKIP
        (tensor([[2, 4, 5, 6, 3]]), 'red fishes')
    """
    check_path(path, "text file", DataError)
    where = f"text file {str(path)!r}"
    check_argument(f"{where}, length", Length | None, length, DataError)
    reader, vocabulary = _reader(tokenizer, pad)
    file = find_file(path, "data", "data/text")
    wanted = None if task == "language" else label
    found = read_sentences(file, where, sentence=sentence, label=wanted, most=most)
    cut = length if truncate else None
    tokens = _tokens(reader, found, vocabulary, where, cut, special_tokens=special_tokens)
    inputs = _padded(tokens, found, vocabulary.pad, length, where)
    labeled = task == "classification" or (task is None and found.labels is not None)
    targets, classes, names = _targets(found, where) if labeled else _no_targets(found)
    domain = TextDomain(
        vocabulary=len(vocabulary.pieces),
        length=inputs.shape[1],
        pad=vocabulary.pad,
        pieces=vocabulary.pieces,
        special=vocabulary.special,
    )
    return Dataset(file.stem, inputs, targets, domain, classes, names)


def _reader(tokenizer: str | Path, pad: str | None) -> tuple[Any, Vocabulary]:
    """Return a tokenizer and its vocabulary."""
    where = f"tokenizer {str(tokenizer)!r}"
    found = load_tokenizer(tokenizer)
    with guard_user_code(
        where, "a tokenizer that can be read", remedy="use another tokenizer", error=DataError
    ):
        return found, vocabulary_of(found, pad, where)


def _tokens(
    tokenizer: Any,
    found: Sentences,
    vocabulary: Vocabulary,
    where: str,
    cut: int | None,
    *,
    special_tokens: bool,
) -> list[list[int]]:
    """Return the tokens of each sentence without padding. Sentences are cut to `cut` tokens unless it is None.

    Raises:
        DataError: The tokenizer fails, makes no token of a sentence, or makes padding inside one.
    """
    with guard_user_code(
        where,
        "sentences that the tokenizer can read",
        remedy="use the tokenizer of the model, or a larger length",
        error=DataError,
    ):
        tokenizer.no_padding()
        tokenizer.no_truncation()
        if cut is not None:
            tokenizer.enable_truncation(cut)
        encoded = tokenizer.encode_batch(found.texts, add_special_tokens=special_tokens)
        tokens = [list(each.ids) for each in encoded]
        empty = [all(each.special_tokens_mask) for each in encoded]
    for line, row, bare in zip(found.lines, tokens, empty, strict=True):
        if bare:
            raise DataError(
                f"{where}, line {line}",
                expected="a sentence with at least one token of text",
                found="no such token",
                remedy="remove the line, or use the tokenizer of the model",
            )
        _check_padding(row, vocabulary.pad, f"{where}, line {line}")
    return tokens


def _check_padding(row: list[int], pad: int | None, where: str) -> None:
    """Drop the padding at the end of a sequence. Raise DataError if there is padding inside."""
    while row and row[-1] == pad:
        row.pop()
    if pad in row or not row:
        place = row.index(pad) + 1 if pad in row else 1
        raise DataError(
            where,
            expected="padding only at the end of a sequence",
            found=f"the padding token {pad} at place {place}",
            remedy='remove it from the sentence, name another padding token in pad = "...",'
            " or set special_tokens = false",
        )


def _padded(
    tokens: list[list[int]], found: Sentences, pad: int | None, length: int | None, where: str
) -> Tensor:
    """Return the tokens (N, L) with padding at the end. Raise DataError if a sentence does not fit."""
    sizes = [len(row) for row in tokens]
    longest = max(sizes)
    place = f"{where}, line {found.lines[sizes.index(longest)]}"
    if longest > (length or MOST_LENGTH):
        raise DataError(
            place,
            expected=f"at most {length or MOST_LENGTH} tokens in a sentence",
            found=f"{longest} tokens",
            remedy=f"set length = {longest}, or truncate = true to cut longer sentences"
            if length
            else "cut longer sentences: set length, and truncate = true",
        )
    total = length or longest
    if pad is None and min(sizes) < total:
        raise DataError(
            where,
            expected=f"a padding token, since sentences have {min(sizes)} to {total} tokens",
            found="a tokenizer without one",
            remedy='name a token to pad with: pad = "..."',
        )
    check_values(total * len(tokens), where)
    return torch.tensor([row + [pad or 0] * (total - len(row)) for row in tokens])


def _targets(found: Sentences, where: str) -> tuple[Tensor, int, tuple[str, ...]]:
    """Return the class of each sentence, the number of classes and their names."""
    if found.labels is None:
        # One class alone has no gradient under the softmax loss.
        return torch.zeros(len(found.texts), dtype=torch.long), 2, ()
    given = found.labels
    if all(each.isascii() and each.isdigit() and len(each) < 10 for each in given):
        numbers = torch.tensor(list(map(int, given)))
        return numbers, max(2, int(numbers.max()) + 1), ()
    names = sorted(set(given))
    if len(names) > MOST_NAMES:
        raise DataError(
            f"{where}, labels",
            expected=f"whole numbers from 0, or at most {MOST_NAMES} names of classes",
            found=f"{len(names)} different labels, such as {names[0]!r}",
            remedy="number the classes from 0, or name the column of labels: label = ...",
        )
    number = {name: i for i, name in enumerate(names)}
    targets = torch.tensor([number[each] for each in given])
    if len(names) == 1:
        return targets, 2, ()
    return targets, len(names), tuple(names)


def _no_targets(found: Sentences) -> tuple[Tensor, int, tuple[str, ...]]:
    """Return the targets of a language model, which has no labels: zeros of one class."""
    return torch.zeros(len(found.texts), dtype=torch.long), 1, ()
