"""Every docstring, comment, message and page follows the rules of prose."""

from __future__ import annotations

from pathlib import Path

import pytest
from prose.rules import LONGEST, ROOT, Passage, cells, check, faults, of_python, sentences

UNCLEAR = (
    "such noise, the less the larger it is",
    "None of none known",
    "for want of knowledge or otherwise",
    "None where it can",
    "who knows them goes through them alike",
    "at every mixing of the labels that comes into question",
    "0.01 to 1 did alike on images that no benchmark attacks",
    "with which all features are told at once",
    "before there was anything to tell",
    "Where e starts, by turns",
    "it had not as good",
    "what is not so",
    "a restart (not a trial)",
)


def passage(text: str) -> Passage:
    return Passage("a.py", 1, text, "docstring")


def test_the_repository_follows_the_rules() -> None:
    assert check() == []


@pytest.mark.parametrize("text", UNCLEAR)
def test_an_unclear_phrase_is_found(text: str) -> None:
    assert list(faults(passage(text)))


def test_a_long_sentence_and_a_chain_of_semicolons_are_found() -> None:
    assert list(faults(passage("word " * (LONGEST + 1)))) != []
    assert list(faults(passage("word " * LONGEST))) == []
    assert list(faults(passage("One; two; three."))) != []


def test_sentences_end_where_a_reader_sees_their_end() -> None:
    assert len(sentences("Return X. Raise Y if `a.b` fails! Is it 0.5? No.")) == 4


def test_docstrings_comments_and_messages_are_read() -> None:
    text = '"""By turns."""\n# by turns\nx = 1\n"""By turns."""\nraise ValueError("by turns")\n'
    kinds = [each.kind for each in of_python(Path("a.py"), text)]
    assert sorted(kinds) == ["comment", "docstring", "docstring", "message"]


def test_a_wide_cell_is_found() -> None:
    text = f"| a | {'b' * 81} |\n|---|---|\n| [{'c' * 80}](https://a.b/{'d' * 50}) | e |\n"
    assert len(list(cells(ROOT / "a.md", text))) == 1


def test_the_readme_is_one_screen() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 150


def test_a_file_that_is_not_utf8_is_one_fault(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_bytes(b"# \xe9")
    (tmp_path / "b.j2").write_text("by turns", "utf-8")
    assert len(check(str(tmp_path))) == 2


def test_a_table_in_a_nested_block_is_code() -> None:
    assert not list(cells(ROOT / "a.md", f"````\n```\n| {'b' * 90} |\n```\n````\n"))
