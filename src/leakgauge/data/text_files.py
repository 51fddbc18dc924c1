"""Sentences and labels in a file of text: a table with a header, or one sentence on each line.

A file may come from anybody. Sizes are limited, and each message is one line.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

from leakgauge.core import DataError
from leakgauge.core.files import check_file, reason

MOST_BYTES = 2**28
"""Largest file of sentences, in bytes: 256 MiB."""
LONGEST = 2**17
"""Most characters of one sentence, or of another field of a table."""
MOST_SENTENCES = 2**20
"""Most sentences of a data set."""
SEPARATORS = {".tsv": "\t", ".csv": ","}
"""Separator of the fields of a table, by the ending of its file."""
MARKS = ((b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"))
"""First bytes of files in another encoding."""


@dataclass(frozen=True)
class Sentences:
    """Sentences of a file, with their labels if it holds any.

    Args:
        texts: The sentences.
        lines: Number of the line of each sentence, from 1.
        labels: Label of each sentence as text, or None if the file has none.
    """

    texts: list[str]
    lines: list[int]
    labels: list[str] | None


def read_sentences(
    path: Path, where: str, *, sentence: str | int, label: str | int | None, most: int | None
) -> Sentences:
    """Return the sentences of a file, in order.

    Args:
        path: A file that ends in .tsv or .csv, with a header, or in .txt, with one sentence a line.
        where: Name of the file, for messages.
        sentence: Name of the column of sentences, or its number from 0 in a table without a header.
        label: The same for the column of labels. None reads no labels.
        most: Largest number of sentences to read, the first ones. None reads all.

    Raises:
        DataError: The file is not of this form, not UTF-8, or too large, or a sentence is empty.
    """
    ending = path.suffix.lower()
    check_file(path, where, most=MOST_BYTES, expected="a file of text", error=DataError)
    if ending not in (*SEPARATORS, ".txt"):
        raise DataError(
            where,
            expected="a file that ends in .tsv, .csv or .txt",
            found=f"the ending {path.suffix!r}" if path.suffix else "no ending",
            remedy="rename the file by its content: fields apart by tabs are .tsv, by commas .csv",
        )
    text = read_utf8(path, where, MOST_BYTES)
    if ending == ".txt":
        rows: Iterator[tuple[int, str, str]] = (
            (i, line, "") for i, line in enumerate(_split(text), start=1)
        )
    else:
        rows = _rows(text, where, SEPARATORS[ending], sentence, label)
    found = Sentences([], [], None if ending == ".txt" or label is None else [])
    for line, given, name in rows:
        if len(found.texts) == most:
            break
        _add(found, line, given, name, where)
    if not found.texts:
        raise DataError(
            where, expected="at least one sentence", found="none", remedy="give a file of sentences"
        )
    return found


def read_utf8(path: Path, where: str, most: int) -> str:
    """Return the text of a file without its byte order mark. Raise DataError unless it is UTF-8."""
    check_file(path, where, most=most, expected="a file of text", error=DataError)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(
            where,
            expected="a file that can be read",
            found=reason(error),
            remedy="check its rights",
        ) from error
    remedy = f"convert it: iconv -f {{}} -t utf-8 {path.name} > new{path.suffix}"
    for mark, name in MARKS:
        if raw.startswith(mark):
            raise DataError(where, expected="UTF-8", found=name, remedy=remedy.format(name))
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise DataError(
            where,
            expected="UTF-8",
            found=f"the byte {raw[error.start]:#04x} in line {line}, as in latin-1",
            remedy=remedy.format("latin1"),
        ) from None
    if "\0" in text:
        raise DataError(
            where,
            expected="text",
            found=f"a NUL character in line {text[: text.index(chr(0))].count(chr(10)) + 1}",
            remedy=f"if it is UTF-16, {remedy.format('UTF-16')}",
        )
    return text


def _split(text: str) -> list[str]:
    """Return the lines of a text. Only a newline ends a line, with or without a carriage return."""
    lines = text.replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def _rows(
    text: str, where: str, separator: str, sentence: str | int, label: str | int | None
) -> Iterator[tuple[int, str, str]]:
    """Yield the number of the line, the sentence and the label of each row of a table.

    Fields of a .csv may be in quotes. In a .tsv, quotes are part of the text.
    """
    quoting: Literal[0, 3] = csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL
    lines = iter(f"{line}\n" for line in _split(text))
    reader = csv.reader(lines, delimiter=separator, quoting=quoting, strict=True)
    try:
        first = next(reader, [])
        named = isinstance(sentence, str)
        columns = [
            _column(first, name, where, named=named)
            for name in (sentence, label)
            if name is not None
        ]
        for row in reader if named else chain([first], reader):
            if len(row) != len(first):
                raise DataError(
                    f"{where}, line {reader.line_num}",
                    expected=f"{len(first)} fields, as in the first line",
                    found=f"{len(row)} fields" if row else "an empty line",
                    remedy="correct or remove the line"
                    + (", or put fields with a comma in quotes" if separator == "," else ""),
                )
            fields = [row[i] for i in columns]
            yield reader.line_num, fields[0], fields[1] if label is not None else ""
    except csv.Error as error:
        raise DataError(
            f"{where}, line {reader.line_num}",
            expected="a row of fields",
            found=str(error),
            remedy="correct the quotes of the file",
        ) from None


def _column(first: list[str], name: str | int, where: str, *, named: bool) -> int:
    """Return the index of a column. Raise DataError unless the first line has it, as a name or as a number."""
    if isinstance(name, str) is not named:
        raise DataError(
            where,
            expected="names of both columns, or numbers of both in a table without a header",
            found=f"one of each, such as {name!r}",
            remedy='write, for example, sentence = "text" and label = "class", or sentence = 1 and label = 0',
        )
    if isinstance(name, int) and 0 <= name < len(first):
        return name
    if isinstance(name, str) and first.count(name) == 1:
        return first.index(name)
    shown = ", ".join(map(repr, first[:10])) + (", ..." if len(first) > 10 else "")
    raise DataError(
        f"{where}, first line",
        expected=f"one column {name!r}" if named else f"a column {name}, counted from 0",
        found=f"{len(first)} columns: {shown}" if first else "an empty line",
        remedy='say which columns to read: sentence = "text", label = "class", or their numbers'
        " without a header: sentence = 1, label = 0",
    )


def _add(found: Sentences, line: int, text: str, label: str, where: str) -> None:
    """Add a sentence and its label. Raise DataError if one of them is empty or too long."""
    place = f"{where}, line {line}"
    if not text.strip():
        raise DataError(
            place, expected="a sentence", found="an empty one", remedy="remove the line"
        )
    if len(text) > LONGEST:
        raise DataError(
            place,
            expected=f"a sentence of at most {LONGEST:,} characters",
            found=f"{len(text):,}",
            remedy="split the text into sentences",
        )
    if len(found.texts) == MOST_SENTENCES:
        raise DataError(
            where,
            expected=f"at most {MOST_SENTENCES:,} sentences",
            found="more",
            remedy="read fewer: most = 10000",
        )
    if found.labels is not None:
        if not label.strip():
            raise DataError(
                place, expected="a label", found="an empty field", remedy="give each sentence one"
            )
        found.labels.append(label.strip())
    found.texts.append(text)
    found.lines.append(line)
