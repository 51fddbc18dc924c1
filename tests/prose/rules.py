"""Rules of prose for docstrings, comments, messages and pages.

Run `python tests/prose/rules.py PATH ...` to print each line that breaks a rule. Without a path, all files are read.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

LONGEST = 25
"""Most words of a sentence."""
WIDEST = 80
"""Most characters of a cell of a table on a page."""

PHRASES = {
    r"such noise": "name the noise",
    r"the (less|more|larger|smaller) the \w+er\b": "say what falls or grows with what",
    r"None of none": "None if there is none",
    r"None where|where None|empty where|where there (is|are) (none|no)\b": "None if ...",
    r"for want of": "if it lacks",
    r"what is not so": "say what it is",
    r"who (knows|does not know)( it| them)?\b": "an adaptive adversary, an adversary that knows",
    r"through them alike|\balike\b": "equal, in the same way",
    r"comes into question|come into question": "every candidate",
    r"by turns": "one after the other",
    r"had not as good|as good as (the|a) \w+ had": "say which is better",
    r"told at once": "say what is computed",
    r"before there was anything to tell|anything to tell": "nothing was recorded",
    r"thereof|whereof|thereby": "name the noun",
    r"\bof which\b": "use two sentences",
    r"\bso many\b|\bas many as are\b": "give the number its name",
    r"\bas it is\b|\bas they are\b(?! \w+ed\b)": "unchanged",
    r"what comes back": "name what is returned",
    r"(?<!\bno )\bsuch (?!as\b)": "name the noun",
    r"may be asked": "applicable",
    r"\btrials?\b": "restart",
    r"\bin question\b": "name the noun",
    r"\bwithout which\b|\bbehind which\b|\bby which of\b": "use two sentences",
    r"\bnor\b.*\bnor\b": "use two sentences",
    r"\bthe (same|like) holds of\b|\bholds of\b": "holds for",
    r"\bno more than that\b|\bis told of\b": "say what is recorded",
}
"""Phrases that need a second reading, and what to write instead."""
ALLOWED = re.compile(
    r"\bclinical trials?\b|trial[/-]|\btrial and error\b|^alike: "
    # Values in the stored results of benchmarks.
    r"|^as they are$|(classes|rest) alike$"
)


@dataclass(frozen=True)
class Passage:
    """One paragraph of prose.

    Args:
        path: The file, relative to the root of the repository.
        line: The line where the passage begins, from 1.
        text: The words, without line breaks.
        kind: "docstring", "comment", "message" or "page".
    """

    path: str
    line: int
    text: str
    kind: str


def paragraphs(text: str, line: int) -> Iterator[tuple[int, str]]:
    """Yield the line and the words of each paragraph of a docstring, without code and equations."""
    section, block, start = "", list[str](), line
    literal: int | None = None
    for number, raw in enumerate(text.splitlines(), line):
        stripped, indent = raw.strip(), len(raw) - len(raw.lstrip())
        if literal is not None:
            if not stripped or indent > literal:
                continue
            literal = None
        heading = re.fullmatch(
            r"(Args|Returns|Raises|References|Example|Examples|Note|Yields|Attributes):", stripped
        )
        begins = bool(
            re.match(r"([-*] |\d+\. |>>>|\.\.\.|\*{0,2}[\w.`]+( \(.*?\))?: )", stripped)
        ) and (section in ("Args", "Raises", "Attributes") or not re.match(r"[\w.`]+: ", stripped))
        if not stripped or heading or begins or stripped.startswith((".. ", "|", "#")):
            if block:
                yield start, " ".join(block)
            block = []
        if heading:
            section = heading[1]
        elif stripped.startswith((".. math", ".. code", ".. image", "```")) or stripped.endswith(
            "::"
        ):
            literal = indent
        elif (
            stripped
            and not stripped.startswith((".. ", ":"))
            and section not in ("References", "Example", "Examples")
        ):
            start = number if not block else start
            block.append(stripped)
    if block:
        yield start, " ".join(block)


def of_python(path: Path, text: str) -> Iterator[Passage]:
    """Yield the docstrings, comments and strings of a module."""
    name = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
    tree = ast.parse(text)
    documented = set()
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        for each in body if isinstance(body, list) else []:
            if (
                isinstance(each, ast.Expr)
                and isinstance(each.value, ast.Constant)
                and isinstance(each.value.value, str)
            ):
                documented.add(id(each.value))
                for line, words in paragraphs(ast_clean(each.value.value), each.lineno):
                    yield Passage(name, line, words, "docstring")
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in documented
        ) and " " in node.value.strip():
            yield Passage(name, node.lineno, " ".join(node.value.split()), "message")
    yield from comments(name, text)


def ast_clean(text: str) -> str:
    """Return a docstring without the indentation of its body."""
    first, _, rest = text.partition("\n")
    lines = rest.splitlines()
    margin = min((len(each) - len(each.lstrip()) for each in lines if each.strip()), default=0)
    return "\n".join([first, *(each[margin:] for each in lines)])


def comments(name: str, text: str) -> Iterator[Passage]:
    """Yield comments. Lines that follow each other make one passage."""
    block, start, last = list[str](), 0, -1
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type != tokenize.COMMENT:
            continue
        alone = not token.line[: token.start[1]].strip()
        if block and not (alone and token.start[0] == last + 1):
            yield Passage(name, start, " ".join(block), "comment")
            block = []
        start = token.start[0] if not block else start
        block.append(token.string.lstrip("#! "))
        last = token.start[0] if alone else -1
    if block:
        yield Passage(name, start, " ".join(block), "comment")


def of_page(path: Path, text: str) -> Iterator[Passage]:
    """Yield the paragraphs of a page in Markdown, without code and tables."""
    name = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
    text = re.sub(
        r"^(`{3,}|:{3,}).*?^\1", lambda m: "\n" * m[0].count("\n"), text, flags=re.M | re.S
    )
    block, start = list[str](), 1
    for number, raw in enumerate([*text.splitlines(), ""], 1):
        stripped = raw.strip()
        begins = re.match(r"([-*] |\d+\. |#|\||!\[|<)", stripped)
        if (not stripped or begins) and block:
            yield Passage(name, start, " ".join(block), "page")
            block = []
        if stripped and not stripped.startswith(("|", "#", "<")):
            start = number if not block else start
            block.append(re.sub(r"^([-*]|\d+\.) ", "", stripped))


def sentences(text: str) -> list[str]:
    """Return the sentences of a passage. Links count by their words alone, and code as one word."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"`[^`]*`", "code", text)
    text = re.sub(r"\([^()]*\d{4}[^()]*\)", "", text)
    return re.split(r"(?<=[.!?])[\"')*]*\s+(?=[A-Z\"'(*0-9]|code)", text)


def faults(passage: Passage) -> Iterator[str]:
    """Yield what breaks a rule in one passage."""
    plain = re.sub(r"`[^`]*`", "code", passage.text)
    for pattern, instead in PHRASES.items():
        for match in re.finditer(pattern, ALLOWED.sub("", plain), flags=re.I):
            yield f"{match[0]!r}: {instead}"
    if passage.kind == "message":
        return
    for sentence in sentences(passage.text):
        words = [word for word in sentence.split() if re.search(r"[A-Za-z]", word)]
        if len(words) > LONGEST:
            yield f"a sentence of {len(words)} words: {' '.join(words[:8])} ..."
        if sentence.count(";") > 1:
            yield f"a chain of semicolons: {sentence[:60]} ..."


def cells(path: Path, text: str) -> Iterator[str]:
    """Yield each cell of a table that is too wide."""
    text = re.sub(r"^(`{3,}).*?^\1", lambda m: "\n" * m[0].count("\n"), text, flags=re.M | re.S)
    for number, line in enumerate(text.splitlines(), 1):
        if not line.startswith("|"):
            continue
        for cell in re.split(r"(?<!\\)\|", line.strip().strip("|")):
            shown = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", cell).strip()
            if len(shown) > WIDEST:
                yield f"{path.relative_to(ROOT)}:{number}: a cell of {len(shown)} characters: {shown[:50]} ..."


def files(*names: str) -> list[Path]:
    """Return the files under some paths. By default, all that the repository holds prose in."""
    given = [
        ROOT / name for name in names or ("src", "tests", "benchmarks", "docs", "examples", *PAGES)
    ]
    found = [path for one in given for path in (sorted(one.rglob("*")) if one.is_dir() else [one])]
    own = {Path(__file__).resolve(), Path(__file__).resolve().with_name("test_prose.py")}
    return [
        path
        for path in found
        if path.suffix in (".py", ".md", ".toml", ".j2")
        and path not in own
        and "_build" not in path.parts
    ]


PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")


def passages(path: Path) -> Iterable[Passage]:
    """Return the passages of one file."""
    text = path.read_text("utf-8")
    if path.suffix == ".py":
        return of_python(path, text)
    if path.suffix == ".md":
        return of_page(path, text)
    name = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
    return [Passage(name, i, line, "message") for i, line in enumerate(text.splitlines(), 1)]


def check(*names: str) -> list[str]:
    """Return each fault of the files under some paths, as `path:line: fault`."""
    found = []
    for path in files(*names):
        try:
            path.read_text("utf-8")
        except (OSError, UnicodeError) as error:
            found.append(f"{path}: expected text in UTF-8, found: {error}")
            continue
        found += [
            f"{p.path}:{p.line}: {p.kind}: {fault}" for p in passages(path) for fault in faults(p)
        ]
        if path.suffix == ".md":
            found += list(cells(path, path.read_text("utf-8")))
    return found


if __name__ == "__main__":
    lines = check(*(str(Path(name).resolve()) for name in sys.argv[1:]))
    print("\n".join([*lines, f"{len(lines)} faults"]))
