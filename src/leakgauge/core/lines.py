"""Conversion of any text into one line that is safe to print in a terminal."""

from __future__ import annotations

from contextlib import suppress

SILENT = "a text that cannot be read"
"""The text of an exception that fails to give its own."""


def one_line(text: str, longest: int) -> str:
    """Return `text` as one line of at most `longest` printable characters.

    Runs of white space become one space. Some characters become their escape sequence, so that a
    file name cannot move the cursor. These are control characters, lone surrogates, and characters
    that change the direction of writing. A longer text loses its middle.
    """
    # Only the parts to show are read, since the text may have many megabytes.
    kept = text if len(text) <= 4 * longest else text[: 2 * longest] + text[-2 * longest :]
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(kept.split()))
    if len(line) <= longest and kept is text:
        return line
    half = (longest - 5) // 2
    return f"{line[:half]} ... {line[-half:]}"


def describe_error(error: BaseException) -> str:
    """Return the type and the text of an exception, as in `ValueError: too small`. Never raise.

    The text of an exception comes from the exception's own code, which may itself fail.
    """
    return f"{type(error).__name__}: {text_of(error)}"


def text_of(error: BaseException) -> str:
    """Return the text of an exception, or SILENT if it cannot be read."""
    with suppress(Exception, SystemExit, GeneratorExit):
        return str(error)
    return SILENT
