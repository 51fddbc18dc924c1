"""Text from others, made safe for one line of a terminal."""

from __future__ import annotations

from contextlib import suppress

SILENT = "a text that cannot be read"


def one_line(text: str, longest: int) -> str:
    """Return `text` as one line of printable characters, at most `longest` of them.

    Runs of white space become one space. A control character, a lone surrogate or a character that
    changes the direction of writing becomes its escape sequence, so that a file name cannot move the
    cursor. A longer text loses its middle.
    """
    # Only what can be shown is looked at: a value of megabytes must not cost a pass over all of it.
    kept = text if len(text) <= 4 * longest else text[: 2 * longest] + text[-2 * longest :]
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(kept.split()))
    if len(line) <= longest and kept is text:
        return line
    half = (longest - 5) // 2
    return f"{line[:half]} ... {line[-half:]}"


def said(error: BaseException) -> str:
    """Return the type and the text of an exception: `ValueError: too small`. Never raise.

    The text of a foreign exception is foreign code, which may fail.
    """
    return f"{type(error).__name__}: {text_of(error)}"


def text_of(error: BaseException) -> str:
    """Return the text of an exception, or SILENT if it cannot be read."""
    with suppress(Exception, SystemExit, GeneratorExit):
        return str(error)
    return SILENT
