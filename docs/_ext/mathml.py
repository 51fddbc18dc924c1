"""Draw equations as MathML, which browsers show without a script or a network."""

from __future__ import annotations

import html
import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging

LOG = logging.getLogger(__name__)


def inline(writer: Any, node: nodes.math) -> None:
    """Write an equation within a line."""
    writer.body.append(mathml_of(node.astext(), node))
    raise nodes.SkipNode


def display(writer: Any, node: nodes.math_block) -> None:
    """Write an equation on a line of its own. Lines with `&` are aligned at it.

    A blank line separates two equations.
    """
    for text in filter(str.strip, node.astext().split("\n\n")):
        if r"\\" in text and r"\begin" not in text:
            text = rf"\begin{{align*}}{text}\end{{align*}}"
        writer.body.append(writer.starttag(node, "div", CLASS="math"))
        writer.body.append(mathml_of(text, node, display="block"))
        writer.body.append("</div>")
    raise nodes.SkipNode


def mathml_of(text: str, node: nodes.Node, display: str = "inline") -> str:
    """Return an equation as MathML. If it cannot be converted, warn and return its text as code."""
    # The converter raises many kinds of errors, and keeps a command that it does not know as text.
    try:
        found = convert(text, display=display)
        unknown = re.search(r"<m[ino]>(\\[A-Za-z]+)</m", found)
        mistake = f"unknown command {unknown[1]}" if unknown else ""
    except Exception as error:  # noqa: BLE001
        mistake = f"{type(error).__name__} {error}".strip()
    if not mistake:
        return found
    equation = " ".join(text.split())
    LOG.warning("equation cannot be drawn: %s: %s", mistake, equation, location=node, type="mathml")
    return f"<code>{html.escape(text)}</code>"


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer."""
    app.add_html_math_renderer("mathml", (inline, None), (display, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
