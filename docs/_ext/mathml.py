"""Draw equations as MathML, which browsers show without a script or a network."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx


def inline(writer: Any, node: nodes.math) -> None:
    """Write an equation within a line."""
    writer.body.append(convert(node.astext()))
    raise nodes.SkipNode


def display(writer: Any, node: nodes.math_block) -> None:
    """Write an equation on a line of its own. Lines with `&` are aligned at it.

    A blank line separates two equations.
    """
    for text in filter(str.strip, node.astext().split("\n\n")):
        if r"\\" in text and r"\begin" not in text:
            text = rf"\begin{{align*}}{text}\end{{align*}}"
        writer.body.append(writer.starttag(node, "div", CLASS="math"))
        writer.body.append(convert(text, display="block"))
        writer.body.append("</div>")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer."""
    app.add_html_math_renderer("mathml", (inline, None), (display, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
