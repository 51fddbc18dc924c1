"""TOML from untrusted sources: every mistake soon raises an error of one line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import leakgauge as lg
from leakgauge.audit.resolve import resolve
from leakgauge.audit.specification import Source, parse, read
from leakgauge.audit.toml import DEEPEST, MOST_BYTES

SMALL = """
data = "digits"
model = {name = "mlp", width = 8, depth = 2}
attacks = ["linear_layer"]
"""


def refused(text: str, *words: str, settings: tuple[str, ...] = ()) -> None:
    with pytest.raises(lg.UserError) as caught:
        resolve(parse(Source(text, settings)))
    line = str(caught.value)
    assert line.isprintable()
    assert len(line) < 4000
    assert all(word in line for word in words), line


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("repeats = " + "9" * 5000, "at most 64 bits; found one of thousands of digits"),
        ("repeats = 0x" + "f" * 5000, "specification.repeats: expected an integer"),
        ("repeats = -9223372036854775809", "found -9223372036854775809"),
        ("repeats = 9223372036854775808", "found 9223372036854775808"),
        ("examples = [1, 18446744073709551616]", "specification.examples.1"),
        ("x = " + "[" * 300 + "]" * 300, "32 deep"),
        ("x = " + "{a = " * 300 + "1" + "}" * 300, "32 deep"),
        ("x = " + "[" * 100_000, "32 deep"),
        ("[" + ".".join("a" * 300) + "]", "32 deep"),
        (".".join("a" * 300) + " = 1", "32 deep"),
        ("a" + ".a" * 400_000 + " = 1", "32 deep"),
        ("'a'" + " . 'a'" * 100 + " = 1", "32 deep"),
        ("#" * MOST_BYTES, "1,048,576 characters"),
        ("name = 'a\0b'", "TOML"),
        ('name = "a\\u0000b"', "printable characters"),
        ('name = "\\u001b[2J"', "printable characters"),
        ('name = "two\\nlines"', "printable characters"),
        (f"name = '{'x' * 201}'", "at most 200"),
        ('"a\\u001b[2J\\n" = 1', "a\\x1b[2J"),
        ("repeats = inf", "integer"),
        ("repeats = nan", "integer"),
        ("repeats = 2.0", "integer"),
        ("repeats = true", "integer"),
        ("repeats = 1979-05-27", "integer"),
        ("repeats = 07:32:00", "integer"),
        ("examples = [1979-05-27T07:32:00Z]", "integer"),
        ("name = 1979-05-27", "string"),
        ("training = {name = 'fedavg', lr = nan}", "lr"),
        ("training = {name = 'fedavg', lr = inf}", "lr"),
        ("training = {name = 'fedavg', lr = 1979-05-27}", "lr"),
        ("training = {name = 'fedavg', lr = true}", "lr"),
        ("defenses = [{name = 'gaussian_noise', std = nan}]", "std"),
        ("defenses = [{name = 'gaussian_noise', std = 1979-05-27}]", "std"),
        ("\ud800", ""),
    ],
)
def test_values_and_shapes(change: str, words: str) -> None:
    refused(SMALL + change, words)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("repeats=" + "9" * 5000, "thousands of digits"),
        ("repeats=0x" + "f" * 5000, "64 bits"),
        ("examples=" + "[" * 5000, "32 deep"),
        (".".join("a" * 300) + "=1", "32 deep"),
        ("attacks." + "9" * 5000 + ".steps=1", "indexed from 0"),
        ("cases." + "9" * 5000 + "=1", "indexed from 0"),
        ("name=a\x1b[2Jb", "printable characters"),
        ("repeats=2\nrepeats=3", "repeats"),
        ("repeats=2\nseed=3", "repeats"),
        ("\x1b[2J=3", "\\x1b[2J"),
        ("repeats=nan", "integer"),
        ("repeats=true", "integer"),
        ("repeats=1979-05-27", "integer"),
    ],
)
def test_settings(setting: str, words: str) -> None:
    refused(SMALL, words, settings=(setting,))


def test_a_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(b"\xef\xbb\xbf" + SMALL.encode())
    assert parse(Source(read(path))) == parse(Source(SMALL))
    assert parse(Source("\ufeff" + SMALL)) == parse(Source(SMALL))


@pytest.mark.parametrize("content", [b"\xff\xfe", b"name = '\xe9'", SMALL.encode("utf-16")])
def test_other_encodings(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.toml").write_bytes(content)
    with pytest.raises(lg.SpecificationError, match=r"a\.toml.*in UTF-8"):
        read(tmp_path / "a.toml")


def test_files_that_are_no_specification(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.toml")
    with pytest.raises(lg.SpecificationError, match="named pipe"):
        read(tmp_path / "pipe.toml")
    (tmp_path / "large.toml").write_bytes(b"#" * (MOST_BYTES + 1))
    with pytest.raises(lg.SpecificationError, match="at most 1,048,576 bytes; found 1,048,577"):
        read(tmp_path / "large.toml")
    for path in ("a\0b", "x" * 5000, "/dev/zero"):
        with pytest.raises(lg.SpecificationError) as caught:
            read(path)
        assert str(caught.value).isprintable()


def test_what_is_nested_as_deep_as_is_stated_is_read() -> None:
    refused(SMALL + "x = " + "[" * (DEEPEST - 3) + "]" * (DEEPEST - 3), "remove it")
