"""Tokenizers from local files: tokenizer.json of the package `tokenizers`, or a WordPiece vocab.txt."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leakgauge.core import DataError
from leakgauge.core.files import check_file
from leakgauge.core.references import guard_user_code
from leakgauge.core.text import MOST_TOKENS
from leakgauge.data.files import find_file
from leakgauge.data.text_files import read_utf8

MOST_BYTES = 2**27
"""Largest file of a tokenizer, in bytes: 128 MiB."""
PADS = ("[PAD]", "<pad>", "<PAD>", "<|pad|>", "<|padding|>", "<unk_pad>")
"""Names of padding tokens, in the order in which they are looked for."""
ENDS = ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>", "[EOS]", "<|im_end|>")
"""Names of tokens that end a text. They pad where a tokenizer has no padding token, as in GPT-2."""
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""Special tokens of a WordPiece vocabulary."""
BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
"""A token for one byte, as in sentencepiece."""


@dataclass(frozen=True)
class Vocabulary:
    """What the domain of a text takes from its tokenizer.

    Args:
        pieces: Text of each token, with a leading space where a word begins.
        special: Tokens that stand for no text.
        pad: The padding token, or None if the tokenizer has none.
    """

    pieces: tuple[str, ...]
    special: tuple[int, ...]
    pad: int | None


def load_tokenizer(path: str | Path) -> Any:
    """Return a tokenizer of the package `tokenizers`.

    Args:
        path: A tokenizer.json, a folder that holds one or a vocab.txt, or a vocab.txt of WordPiece.

    Raises:
        DataError: The package is not installed, or the file is no tokenizer.
    """
    try:
        library = importlib.import_module("tokenizers")
    except ImportError as error:
        raise DataError(
            "data 'text'",
            expected="the package tokenizers",
            found=str(error),
            remedy='run `pip install "leakgauge[text]"`',
        ) from error
    file = _file(find_file(path, "data", "weights"), f"tokenizer {str(path)!r}")
    where = f"tokenizer {str(file)!r}"
    text = read_utf8(file, where, MOST_BYTES)
    with guard_user_code(
        where, "a tokenizer", remedy="save it with save_pretrained of transformers", error=DataError
    ):
        if file.suffix == ".json":
            _check_json(text, where)
            return library.Tokenizer.from_str(text)
        return _wordpiece(library, text, file, where)


def vocabulary_of(tokenizer: Any, pad: str | None, where: str) -> Vocabulary:
    """Return the pieces, special tokens and padding token of a tokenizer.

    Args:
        tokenizer: The tokenizer.
        pad: Name of the padding token. None looks for the usual ones.
        where: Name of the tokenizer, for messages.

    Raises:
        DataError: It has no token named `pad`, or too many tokens.
    """
    numbers: Mapping[str, int] = tokenizer.get_vocab(with_added_tokens=True)
    count = max(numbers.values(), default=-1) + 1
    if not 2 <= count <= MOST_TOKENS:
        raise DataError(
            where,
            expected=f"from 2 to {MOST_TOKENS:,} tokens",
            found=f"{count:,}",
            remedy="use the tokenizer of a language model",
        )
    added = tokenizer.get_added_tokens_decoder()
    names = [""] * count
    for name, number in numbers.items():
        names[number] = name
    special = {number for number, token in added.items() if token.special}
    special |= {numbers[name] for name in SPECIALS if name in numbers}
    plain = [number in added for number in range(count)]
    pieces = _pieces(names, plain, json.loads(tokenizer.to_str()))
    return Vocabulary(pieces, tuple(sorted(special)), _pad(tokenizer, numbers, pad, where))


def _file(path: Path, where: str) -> Path:
    """Return the file of a tokenizer: `path` itself, or a file with a usual name in the folder `path`."""
    if not path.is_dir():
        if path.suffix in (".json", ".txt"):
            return path
        raise DataError(
            where,
            expected="a tokenizer.json, a vocab.txt, or a folder that holds one of them",
            found=f"the file {path.name!r}",
            remedy="save the tokenizer with save_pretrained of transformers, and give its folder",
        )
    for name in ("tokenizer.json", "vocab.txt"):
        if (path / name).exists():
            return path / name
    raise DataError(
        where,
        expected="a folder that holds a tokenizer.json or a vocab.txt",
        found="neither",
        remedy="save the tokenizer with save_pretrained of transformers, and give its folder",
    )


def _check_json(text: str, where: str) -> None:
    """Raise DataError unless a text is JSON with the parts of a tokenizer."""
    try:
        found = json.loads(text)
    # Lists that are nested thousands deep raise a RecursionError.
    except (ValueError, RecursionError) as error:
        raise DataError(
            where, expected="JSON", found=str(error), remedy="give a tokenizer.json that is whole"
        ) from None
    if not isinstance(found, dict) or not isinstance(found.get("model"), dict):
        raise DataError(
            where,
            expected="an object with the key 'model', as the package tokenizers writes it",
            found=f"the keys {', '.join(map(repr, list(found)[:6]))}"
            if isinstance(found, dict)
            else f"a {type(found).__name__}",
            remedy="give the file tokenizer.json, not tokenizer_config.json or vocab.json",
        )


def _wordpiece(library: Any, text: str, file: Path, where: str) -> Any:
    """Return the tokenizer of BERT for a vocab.txt with one token on each line."""
    tokens = text.replace("\r\n", "\n").rstrip("\n").split("\n")
    numbers = {token: i for i, token in enumerate(tokens)}
    missing = [name for name in ("[UNK]", "[CLS]", "[SEP]") if name not in numbers]
    if missing or len(numbers) != len(tokens):
        raise DataError(
            where,
            expected="a WordPiece vocabulary: one token on each line, with [UNK], [CLS] and [SEP]",
            found=f"no {missing[0]}" if missing else "a token twice",
            remedy="give the vocab.txt of a BERT, or a tokenizer.json",
        )
    lower = not any(t != t.lower() for t in tokens if t not in SPECIALS)
    config = file.with_name("tokenizer_config.json")
    if config.exists():
        check_file(config, str(config), most=MOST_BYTES, expected="a file of JSON", error=DataError)
        lower = bool(json.loads(config.read_bytes()).get("do_lower_case", lower))
    return library.BertWordPieceTokenizer(vocab=numbers, lowercase=lower)._tokenizer


def _pad(tokenizer: Any, numbers: Mapping[str, int], name: str | None, where: str) -> int | None:
    """Return the padding token: the named one, the tokenizer's own, a usual one, or one that ends texts."""
    if name is not None:
        if name in numbers:
            return numbers[name]
        raise DataError(
            where,
            expected=f"a token {name!r}, which the option pad names",
            found="none",
            remedy="name a token of the tokenizer, or leave pad out",
        )
    own = tokenizer.padding
    if own is not None and own["pad_token"] in numbers:
        return int(numbers[own["pad_token"]])
    return next((numbers[each] for each in (*PADS, *ENDS) if each in numbers), None)


def _pieces(
    names: Sequence[str], plain: Sequence[bool], config: Mapping[str, Any]
) -> tuple[str, ...]:
    """Return the text of each token by its name.

    Args:
        names: Names of the tokens.
        plain: Whether the name of each token is its text, as for tokens that were added.
        config: Configuration of the tokenizer.
    """
    parts = _kinds(config.get("decoder")) | _kinds(config.get("pre_tokenizer"))
    made = []
    table = byte_table() if "ByteLevel" in parts else {}
    marked = any("\u2581" in name for name in names)
    prefix = _prefix(config)
    for name, as_is in zip(names, plain, strict=True):
        byte = BYTE.fullmatch(name)
        if as_is:
            made.append(name)
        elif table:
            raw = b"".join(table.get(c, c.encode()) for c in name)
            made.append(raw.decode(errors="surrogateescape"))
        elif byte is not None:
            made.append(bytes.fromhex(byte[1]).decode(errors="surrogateescape"))
        elif marked:
            made.append(name.replace("\u2581", " "))
        elif name.endswith("</w>"):
            made.append(name.removesuffix("</w>") + " ")
        elif prefix and name.startswith(prefix):
            made.append(name.removeprefix(prefix))
        else:
            made.append(name if "BPEDecoder" in parts else f" {name}")
    return tuple(made)


def _kinds(part: object) -> set[str]:
    """Return the types of a part of a tokenizer and of all parts in it."""
    if isinstance(part, list):
        return set().union(*map(_kinds, part)) if part else set()
    if not isinstance(part, dict):
        return set()
    inner = [_kinds(value) for value in part.values() if isinstance(value, list)]
    return {str(part.get("type"))}.union(*inner)


def _prefix(config: Mapping[str, Any]) -> str:
    """Return the beginning of tokens that continue a word, such as ##, or an empty text."""
    model = config.get("model") or {}
    return str(model.get("continuing_subword_prefix") or "")


def byte_table() -> dict[str, bytes]:
    """Return the byte for each character in the names of byte level tokens.

    Printable characters of latin-1 stand for themselves. The other bytes, in order, have the
    characters from 256 on.
    """
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in kept]
    codes = {chr(byte): byte for byte in kept}
    codes |= {chr(256 + i): byte for i, byte in enumerate(others)}
    return {character: bytes([byte]) for character, byte in codes.items()}
