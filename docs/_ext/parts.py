"""Write a page for each attack, defense and threat model, and for each room of the API, from the classes themselves."""

from __future__ import annotations

import enum
import importlib
import inspect
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from options import rows_of
from pydantic import BaseModel
from sphinx.application import Sphinx
from sphinx.util import logging

from leakgauge.audit.resolve import ATTACKS, DEFENSES, THREATS
from leakgauge.catalog import brief, first_line

LOG = logging.getLogger(__name__)
ROOMS = {
    "audit": ("Audits and reports", "leakgauge"),
    "core": ("Observations, attacks, plans", "leakgauge.core"),
    "data": ("Data sets", "leakgauge.data"),
    "models": ("Networks", "leakgauge.models"),
    "metrics": ("Metrics", "leakgauge.metrics"),
    "modalities": ("Modalities", "leakgauge.modalities"),
    "inspection": ("Inspection", "leakgauge.inspection"),
    "inversion": ("Gradient matching", "leakgauge.inversion"),
    "federated": ("Clients and local training", "leakgauge.federated"),
    "utility": ("Utility", "leakgauge.utility"),
    "records": ("Records", "leakgauge.records"),
    "examples": ("Examples for documentation", "leakgauge.examples"),
}
"""Pages of the API: title, and the module whose public names the page documents."""
LONGEST_SIGNATURE = 300
"""Most characters of a signature that is printed with whole defaults."""
SEAMS = {
    "on_batch": "the private batch",
    "on_model": "the model",
    "on_training": "the local training",
    "on_update": "the finished update",
}


def write_pages(app: Sphinx) -> None:
    """Write all pages anew. A page whose class is gone must not stay."""
    root = Path(app.srcdir)
    kinds: dict[str, tuple[str, dict[str, Any], Callable[[Any], str]]] = {
        "attacks": ("Attacks", ATTACKS, knowledge_of),
        "defenses": ("Defenses", DEFENSES, protection_of),
        "threats": ("Threat models", THREATS, grants_of),
    }
    for folder, (title, parts, facts) in kinds.items():
        pages = {name: page_or_warning(name, part, facts) for name, part in parts.items()}
        introduction = (root / "_parts" / f"{folder}.md").read_text("utf-8")
        lines = [
            f"- [`{name}`]({name}.md): {first_line(part)}" for name, part in sorted(parts.items())
        ]
        pages["index"] = index_of(title, introduction, lines, sorted(parts))
        replace(root / folder, pages)
    rooms = {name: room_page(name) for name in ROOMS}
    introduction = (root / "_parts" / "api.md").read_text("utf-8")
    lines = [f"- [{title}]({name}.md): `{module}`" for name, (title, module) in ROOMS.items()]
    replace(root / "api", {**rooms, "index": index_of("API", introduction, lines, list(ROOMS))})


def replace(folder: Path, pages: dict[str, str]) -> None:
    """Make a folder hold these pages alone. A page that is unchanged is not written."""
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        if path.stem not in pages:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name, text in pages.items():
        path = folder / f"{name}.md"
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")


def index_of(title: str, introduction: str, lines: list[str], names: list[str]) -> str:
    """Return the page that lists the others."""
    tree = "\n".join(["```{toctree}", ":hidden:", "", *names, "```"])
    return "\n".join([f"# {title}", "", introduction.strip(), "", *lines, "", tree, ""])


def page_or_warning(name: str, part: type, facts: Callable[[Any], str]) -> str:
    """Return the page of one class. If it cannot be made, warn and return a page with only a title."""
    warn_undocumented(f"page {name}, class {part.__name__}", part)
    # An annotation, a default or a fact of any class can raise any exception.
    try:
        return page_of(name, part, facts(part))
    except Exception as error:  # noqa: BLE001
        reason = f"{type(error).__name__}: {error}".rstrip(": ")
        LOG.warning("page %s, class %s: cannot be described: %s", name, part.__name__, reason)
        return f"# {part.__name__}\n"


def warn_undocumented(where: str, part: Any) -> None:
    """Warn if a class or a function has no docstring of its own. A dataclass without one has its signature."""
    text = vars(part).get("__doc__") if inspect.isclass(part) else part.__doc__
    if not (text or "").strip() or text.startswith(f"{part.__name__}("):
        LOG.warning("%s: expected a docstring, found none", where)


def page_of(name: str, part: type, facts: str) -> str:
    """Return the page of one class: its names, its docstring, its options."""
    module = part.__module__.split(".")[1]
    place = f"leakgauge.{module}.{part.__name__}"
    rows = list(rows_of(part))
    table = ["| option | type | range | default |", "|---|---|---|---|", *rows]
    return "\n".join(
        [
            f"# {part.__name__}",
            "",
            f"In a specification: `{name}`. In Python: `{place}`.",
            "",
            facts,
            "",
            *directive("autoclass", place),
            "",
            "## Options",
            "",
            *(table if rows else ["None."]),
            "",
        ]
    )


def directive(kind: str, place: str, *options: str) -> Iterator[str]:
    """Yield a directive of reStructuredText on a page in Markdown."""
    yield from ("```{eval-rst}", f".. {kind}:: {place}", *(f"   {each}" for each in options), "```")


def knowledge_of(attack: type) -> str:
    """Return what an attack must know, with default options."""
    return f"Needs to know: {known(attack().requires)}."


def grants_of(threat: type) -> str:
    """Return what a threat model grants, with default options."""
    return f"Grants by default: {known(threat().grants)}."


def known(names: frozenset[str]) -> str:
    """Return what every adversary knows, and these names of further knowledge, in words."""
    return ", ".join(
        ["the model", "the local training", "the update", *(f"`{name}`" for name in sorted(names))]
    )


def protection_of(defense: type) -> str:
    """Return what a defense changes, what it hides, and what an adaptive adversary does."""
    from leakgauge.defenses import Undefended

    changed = [
        words
        for seam, words in SEAMS.items()
        if getattr(defense, seam) is not getattr(Undefended, seam)
    ]
    lines = [f"Changes: {', '.join(changed)}." if changed else "Changes: what its parts change."]
    claim = getattr(defense, "claim", None)
    if claim is not None and isinstance(getattr(claim, "hides", None), str):
        lines += [
            f"Hides: {claim.hides}.",
            f"From: {claim.whom}.",
            f"An adaptive adversary: {claim.adversary}.",
        ]
    return "\n".join(f"- {line}" for line in lines)


def room_page(name: str) -> str:
    """Return the page of the public names of one room."""
    title, module = ROOMS[name]
    lines = [f"# {title}", "", f"Names of `{module}`.", ""]
    for place, part in names_of(module):
        warn_undocumented(f"page api/{name}, {place}", part)
        lines += directive(*documented(place, part))
        lines.append("")
    return "\n".join(lines)


def documented(place: str, part: Any) -> tuple[str, ...]:
    """Return the directive that documents a part, its target and its options."""
    if not inspect.isclass(part):
        return "autofunction", place
    if issubclass(part, BaseException):
        return "autoexception", place
    if issubclass(part, enum.Enum | BaseModel):
        return "autoclass", place
    return "autoclass", place, ":members:", ":member-order: bysource"


def names_of(module: str) -> Iterator[tuple[str, Any]]:
    """Yield public classes and functions that have no page elsewhere, each under its shortest name."""
    room = importlib.import_module(module)
    elsewhere = {id(part) for part in (*ATTACKS.values(), *DEFENSES.values(), *THREATS.values())}
    if module != "leakgauge":
        package = importlib.import_module("leakgauge")
        elsewhere |= {id(getattr(package, name)) for name in package.__all__}
    for name in sorted(room.__all__):
        part = getattr(room, name)
        ours = getattr(part, "__module__", "").startswith("leakgauge.")
        callable_part = inspect.isclass(part) or inspect.isfunction(part)
        if ours and callable_part and id(part) not in elsewhere:
            elsewhere.add(id(part))
            yield f"{module}.{name}", part


def shorten_signature(
    app: Sphinx,
    what: str,
    name: str,
    part: Any,
    options: Any,
    signature: str | None,
    returns: str | None,
) -> tuple[str, str | None] | None:
    """Return a signature with its defaults in a few characters, or None if it is short already."""
    if what != "class" or signature is None or len(signature) <= LONGEST_SIGNATURE:
        return None
    shown = [
        each if parameter.default is parameter.empty else f"{each}={brief(parameter.default)}"
        for each, parameter in inspect.signature(part).parameters.items()
    ]
    return f"(*, {', '.join(shown)})", returns


def setup(app: Sphinx) -> dict[str, bool]:
    """Write the pages before Sphinx reads any."""
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-process-signature", shorten_signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
