"""Text from files: tokenizers of each family, tables and plain files, and each mistake in one line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import leakgauge as lg
from leakgauge.data.text_files import read_sentences

tokenizers = pytest.importorskip("tokenizers")

LINES = ["Red fishes swim.", "A fish is red!", "Héllo wörld, John's 😀 test."]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "fish", "##es", "swim", ".", "a"]


def write(folder: Path, name: str, content: str | bytes) -> Path:
    """Write a file and return its path."""
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def byte_level(folder: Path) -> Path:
    """Save a byte level tokenizer as that of GPT-2, whose only special token ends a text."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    train = tokenizers.trainers.BpeTrainer
    made.train_from_iterator(
        LINES,
        train(vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet),
    )
    return saved(made, folder)


def sentencepiece(folder: Path) -> Path:
    """Save a tokenizer as that of LLaMA: metaspaces, bytes for other characters, a begin, and no padding."""
    text = "".join(LINES[:2]).replace(" ", "")
    names = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "\u2581"]
    names += sorted(set(text))
    made = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            vocab={name: i for i, name in enumerate(names)},
            merges=[],
            byte_fallback=True,
            unk_token="<unk>",
        )
    )
    parts = tokenizers.normalizers
    made.normalizer = parts.Sequence([parts.Prepend("\u2581"), parts.Replace(" ", "\u2581")])
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return saved(made, folder)


def saved(made: Any, folder: Path) -> Path:
    """Save a tokenizer and return its path."""
    path = folder / "tokenizer.json"
    made.save(str(path))
    return path


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """The folder of a WordPiece vocabulary."""
    write(tmp_path, "vocab.txt", "\n".join(WORDS) + "\n")
    return tmp_path


class TestTokenizers:
    def test_wordpiece(self, tmp_path: Path, bert: Path) -> None:
        data = lg.data.text(write(tmp_path, "a.txt", "Red fishes swim.\na red fish\n"), bert)
        assert data.inputs.tolist() == [[2, 5, 6, 7, 8, 9, 3], [2, 10, 5, 6, 3, 0, 0]]
        assert isinstance(data.domain, lg.TextDomain)
        assert (data.domain.pad, data.domain.special) == (0, (0, 1, 2, 3, 4))
        assert data.domain.text(data.inputs[0]) == "red fishes swim ."
        assert data.domain.parts(data.inputs[0]) == ["", " red", " fish", "es", " swim", " .", ""]
        same = lg.data.text(tmp_path / "a.txt", bert / "vocab.txt")
        assert torch.equal(same.inputs, data.inputs)

    def test_small_letters_follow_the_vocabulary_and_its_configuration(
        self, tmp_path: Path, bert: Path
    ) -> None:
        file = write(tmp_path, "a.txt", "Red\n")
        write(bert, "tokenizer_config.json", '{"do_lower_case": false}')
        assert lg.data.text(file, bert / "vocab.txt").inputs.tolist() == [[2, 1, 3]]

    def test_byte_level_spells_every_character(self, tmp_path: Path) -> None:
        path = byte_level(tmp_path)
        data = lg.data.text(write(tmp_path, "a.txt", "\n".join(LINES) + "\n"), path)
        assert isinstance(data.domain, lg.TextDomain)
        # GPT-2 has no padding token. The end of a text serves, as is usual.
        assert data.domain.pad == 0
        assert [data.domain.text(row) for row in data.inputs] == LINES
        whole = "".join(data.domain.parts(data.inputs[2]))
        assert whole == LINES[2]

    def test_sentencepiece_with_bytes(self, tmp_path: Path) -> None:
        path = sentencepiece(tmp_path)
        data = lg.data.text(write(tmp_path, "a.txt", "a fish\nfé 😀\n"), path)
        assert isinstance(data.domain, lg.TextDomain)
        assert data.domain.pad == 2
        assert [data.domain.text(row) for row in data.inputs] == ["a fish", "fé 😀"]
        assert (data.inputs[:, 0] == 1).all()
        bare = lg.data.text(tmp_path / "a.txt", path, special_tokens=False)
        assert not (bare.inputs == 1).any()

    def test_words_of_a_plain_vocabulary(self, tmp_path: Path) -> None:
        made = tokenizers.Tokenizer(
            tokenizers.models.WordLevel({"<pad>": 0, "red": 1, "fish": 2}, unk_token="<pad>")
        )
        made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        data = lg.data.text(write(tmp_path, "a.txt", "red fish\n"), saved(made, tmp_path))
        assert isinstance(data.domain, lg.TextDomain)
        assert data.domain.text(data.inputs[0]) == "red fish"

    def test_its_own_padding_comes_first_and_the_option_before_it(self, tmp_path: Path) -> None:
        path = byte_level(tmp_path)
        made = tokenizers.Tokenizer.from_file(str(path))
        made.enable_padding(pad_id=5, pad_token=made.id_to_token(5), length=40)
        made.enable_truncation(2)
        saved(made, tmp_path)
        file = write(tmp_path, "a.txt", "Red fishes swim.\nA fish\n")
        data = lg.data.text(file, path)
        assert isinstance(data.domain, lg.TextDomain)
        # Neither its padding to 40 tokens nor its truncation to 2 is applied.
        assert data.domain.pad == 5
        assert 2 < data.inputs.shape[1] < 40
        other = lg.data.text(file, path, pad="<|endoftext|>").domain
        assert isinstance(other, lg.TextDomain)
        assert other.pad == 0


class TestTables:
    def test_labels_are_numbers_or_names(self, tmp_path: Path, bert: Path) -> None:
        numbers = lg.data.text(write(tmp_path, "a.tsv", "label\tsentence\n2\tred\n0\tfish\n"), bert)
        assert (numbers.targets.tolist(), numbers.classes) == ([2, 0], 3)
        assert numbers.class_names == ()
        names = lg.data.text(write(tmp_path, "b.csv", "sentence,label\nred,pos\nfish,neg\n"), bert)
        assert (names.targets.tolist(), names.class_names) == ([1, 0], ("neg", "pos"))
        signs = lg.data.text(write(tmp_path, "c.tsv", "label\tsentence\n-1\tred\n1\tred\n"), bert)
        assert (signs.targets.tolist(), signs.class_names) == ([0, 1], ("-1", "1"))

    def test_one_class_alone_has_a_second(self, tmp_path: Path, bert: Path) -> None:
        data = lg.data.text(write(tmp_path, "a.tsv", "label\tsentence\n0\tred\n"), bert)
        assert data.classes == 2

    def test_columns_by_name_and_by_number(self, tmp_path: Path, bert: Path) -> None:
        named = write(tmp_path, "a.csv", 'id,text,class\n7,"red, fish",1\n')
        data = lg.data.text(named, bert, sentence="text", label="class")
        assert data.inputs.tolist() == [[2, 5, 1, 6, 3]]
        bare = write(tmp_path, "b.tsv", '1\t"red fish\n0\tfish\n')
        data = lg.data.text(bare, bert, sentence=1, label=0)
        assert (data.inputs.shape, data.targets.tolist()) == ((2, 5), [1, 0])

    def test_language_needs_no_labels(self, tmp_path: Path, bert: Path) -> None:
        data = lg.data.text(write(tmp_path, "a.tsv", "sentence\nred\n"), bert, task="language")
        assert (data.targets.tolist(), data.classes) == ([0], 1)
        plain = lg.data.text(write(tmp_path, "a.txt", "red\n"), bert)
        assert plain.classes == 1
        assert lg.data.text(tmp_path / "a.txt", bert, task="classification").classes == 2

    def test_line_ends_marks_and_the_first_sentences(self, tmp_path: Path, bert: Path) -> None:
        file = write(tmp_path, "a.tsv", "\ufefflabel\tsentence\r\n1\tred\r\n0\tfish swim\r\n")
        assert lg.data.text(file, bert).inputs.tolist() == [[2, 5, 3, 0], [2, 6, 8, 3]]
        assert lg.data.text(file, bert, most=1).inputs.tolist() == [[2, 5, 3]]

    def test_lengths(self, tmp_path: Path, bert: Path) -> None:
        file = write(tmp_path, "a.txt", "red fish swim\n")
        assert lg.data.text(file, bert, 8).inputs.shape == (1, 8)
        assert lg.data.text(file, bert, 4, truncate=True).inputs.tolist() == [[2, 5, 6, 3]]


TSV = "label\tsentence\n"
BAD: dict[str, tuple[str, str | bytes, dict[str, Any], str]] = {
    "an empty sentence": ("a.tsv", f"{TSV}1\t \n", {}, "line 2: expected a sentence"),
    "an empty line": ("a.txt", "red\n\nfish\n", {}, "line 2: expected a sentence"),
    "an empty row": ("a.tsv", f"{TSV}1\tred\n\n1\tred\n", {}, "an empty line"),
    "an empty file": ("a.txt", "", {}, "at least one sentence"),
    "an empty table": ("a.csv", "", {}, "an empty line"),
    "a header alone": ("a.tsv", TSV, {}, "at least one sentence"),
    "UTF-16": ("a.txt", "red\n".encode("utf-16"), {}, "found UTF-16"),
    "UTF-16 without its mark": ("a.txt", "red\n".encode("utf-16-le"), {}, "NUL"),
    "latin-1": ("a.txt", b"red\nf\xe9\n", {}, "the byte 0xe9 in line 2, as in latin-1"),
    "no column": ("a.tsv", "sentence\nred\n", {}, "one column 'label'"),
    "a column twice": ("a.tsv", "label\tlabel\tsentence\n", {}, "one column 'label'"),
    "too many fields": ("a.csv", "label,sentence\n1,red, fish\n", {}, "found 3 fields"),
    "an open quote": ("a.csv", 'label,sentence\n1,"red\n', {}, "correct the quotes"),
    "no label": ("a.tsv", f"{TSV}\tred\n", {}, "line 2: expected a label"),
    "another ending": ("a.doc", "red", {}, "the ending '.doc'"),
    "no ending": ("letters", "red", {}, "no ending"),
    "a long sentence": ("a.txt", "red fish\n", {"length": 3}, "found 4 tokens; set length = 4"),
    "a length of 0": ("a.txt", "red\n", {"length": 0}, "at most 65536"),
    "too short to cut": ("a.txt", "red\n", {"length": 1, "truncate": True}, "set length = 3"),
    "an unknown token": ("a.txt", "red\n", {"pad": "<pad>"}, "a token '<pad>'"),
    "a name and a number": ("a.tsv", TSV, {"sentence": 1}, "names of both columns"),
    "a column too far": ("a.tsv", TSV, {"sentence": 5, "label": 0}, "a column 5"),
    "padding in a sentence": ("a.txt", "red [PAD] fish\n", {}, "padding only at the end"),
    "no text": ("a.txt", "\x01\x02\n", {}, "at least one token of text"),
    "too many names": (
        "a.tsv",
        TSV + "".join(f"0.{i}\tred\n" for i in range(1001)),
        {},
        "1001 different labels",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_mistake_is_told_in_one_line(case: str, tmp_path: Path, bert: Path) -> None:
    name, content, options, words = BAD[case]
    with pytest.raises(lg.DataError) as caught:
        lg.data.text(write(tmp_path, name, content), bert, **options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


BROKEN: dict[str, tuple[str, str | bytes, str]] = {
    "no JSON": ("tokenizer.json", "{", "expected JSON"),
    "a list": ("tokenizer.json", "[]", "found a list"),
    "deep lists": ("tokenizer.json", "[" * 100_000, "expected JSON"),
    "another object": ("tokenizer.json", '{"red": 0}', "the key 'model'"),
    "an unknown model": ("tokenizer.json", '{"model": {"type": "Other"}}', "a tokenizer"),
    "no token": ("tokenizer.json", "", "expected JSON"),
    "a huge number": (
        "tokenizer.json",
        json.dumps({"model": {"type": "WordLevel", "vocab": {"a": 2**31}, "unk_token": "a"}}),
        "tokens",
    ),
    "a vocabulary without marks": ("vocab.txt", "red\nfish\n", "no [UNK]"),
    "a token twice": ("vocab.txt", "\n".join([*WORDS, "red"]), "a token twice"),
    "bytes": ("tokenizer.json", b"\x80\x81", "UTF-8"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_tokenizer_is_told_in_one_line(case: str, tmp_path: Path) -> None:
    name, content, words = BROKEN[case]
    file = write(tmp_path, "a.txt", "red\n")
    with pytest.raises(lg.DataError) as caught:
        lg.data.text(file, write(tmp_path, name, content))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_that_is_missing_or_something_else(tmp_path: Path) -> None:
    file = write(tmp_path, "a.txt", "red\n")
    for path, words in (
        (tmp_path, "found neither"),
        (tmp_path / "none", "nothing at"),
        (write(tmp_path, "tokenizer.model", b"\0"), "the file 'tokenizer.model'"),
    ):
        with pytest.raises(lg.DataError, match=words):
            lg.data.text(file, path)


def test_lengths_that_differ_need_padding(tmp_path: Path) -> None:
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"red": 0, "fish": 1}, unk_token="red"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    path = saved(made, tmp_path)
    data = lg.data.text(write(tmp_path, "a.txt", "red fish\nfish red\n"), path)
    assert isinstance(data.domain, lg.TextDomain)
    assert data.domain.pad is None
    with pytest.raises(lg.DataError, match="a padding token"):
        lg.data.text(write(tmp_path, "b.txt", "red fish\nfish\n"), path)


def test_without_its_package_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(lg.DataError, match=r"pip install \"leakgauge\[text\]\""):
        lg.data.text(write(tmp_path, "a.txt", "red\n"), tmp_path)


def test_sizes_are_limited(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bert: Path) -> None:
    file = write(tmp_path, "a.txt", "red fish\nred fish\n")
    for limit, value in (("MOST_BYTES", 4), ("LONGEST", 4), ("MOST_SENTENCES", 1)):
        with monkeypatch.context() as patch:
            patch.setattr(f"leakgauge.data.text_files.{limit}", value)
            with pytest.raises(lg.DataError, match="at most"):
                lg.data.text(file, bert)


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(lg.DataError, match="a named pipe"):
        read_sentences(tmp_path / "a.txt", "a.txt", sentence="s", label=None, most=None)


class TestSentences:
    def test_they_come_whole_with_the_package(self) -> None:
        data = lg.data.sentences()
        assert isinstance(data.domain, lg.TextDomain)
        assert len(data) == 60
        assert data.domain.vocabulary == 600
        assert data.targets.bincount().tolist() == [30, 30]
        texts = [data.domain.text(row) for row in data.inputs]
        assert len(set(texts)) == 60
        assert texts[33] == "you want to tell me, and i have no objection to hearing it."
        assert "public domain" in data.licence

    def test_the_vocabulary_holds_more_than_the_sentences(self) -> None:
        data = lg.data.sentences()
        assert isinstance(data.domain, lg.TextDomain)
        used = len(data.inputs.unique()) - 1
        assert used == 292
        assert list(data.domain.pieces[1:]) == sorted(data.domain.pieces[1:], key=str.strip)
