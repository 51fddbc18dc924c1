"""Specifications: TOML in, one checked object out. Everything wrong is told before any compute."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from leakgauge.audit.options import explain
from leakgauge.audit.toml import check_tree, text_of, tree_of
from leakgauge.core import SpecificationError
from leakgauge.core.ranges import Count


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _listed(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _printable(value: str) -> str:
    if not value.isprintable() or len(value) > LONGEST_NAME:
        raise PydanticCustomError(
            "name", f"a name of at most {LONGEST_NAME} printable characters in one line"
        )
    return value


class Part(BaseModel):
    """A part by name, and its options: `"dlg"`, or `{name = "dlg", steps = 100}`."""

    model_config = ConfigDict(extra="allow")
    name: str

    @property
    def options(self) -> dict[str, Any]:
        """Everything but the name."""
        return dict(self.model_extra or {})


LONGEST_NAME = 200
"""Most characters in the name of a case."""
Named = Annotated[Part, BeforeValidator(_named)]


class TrainingPart(Part):
    """Local training, and how many examples a batch has; a list is a sweep."""

    name: str = "fedsgd"
    batch_size: Annotated[list[Count], BeforeValidator(_listed), Field(min_length=1)] = [1]


class ThreatPart(Part):
    """A threat model, and what it grants."""

    name: str = "server"


class CaseSpecification(BaseModel):
    """One case: every attack against every defense at every batch size."""

    model_config = ConfigDict(extra="forbid")
    name: Annotated[str, AfterValidator(_printable)] | None = None
    data: Named
    model: Named
    loss: str = "cross_entropy"
    training: Annotated[TrainingPart, BeforeValidator(_named)] = TrainingPart()
    threat: Annotated[ThreatPart, BeforeValidator(_named)] = ThreatPart()
    attacks: Annotated[list[Named], BeforeValidator(_listed), Field(min_length=1)]
    defenses: Annotated[list[Named], BeforeValidator(_listed), Field(min_length=1)] = [
        Part(name="none")
    ]
    examples: list[Annotated[int, Field(ge=0)]] | None = None
    repeats: Count = 1
    utility: dict[str, Any] | None = None


class Specification(BaseModel):
    """An audit: a root seed and its cases."""

    model_config = ConfigDict(extra="forbid")
    seed: Annotated[int, Field(ge=0)] = 0
    cases: Annotated[list[CaseSpecification], Field(min_length=1)]


@dataclass(frozen=True)
class Source:
    """What a specification is made from: its TOML, `section.key=value` settings, a seed that overrides."""

    text: str
    settings: tuple[str, ...] = ()
    seed: int | None = None


def default_text() -> str:
    """The embedded default specification."""
    return resources.files("leakgauge.audit").joinpath("default.toml").read_text("utf-8")


def read(path: str | Path | None) -> str:
    """The text of a specification file, or of the default. Raises SpecificationError."""
    if path is None:
        return default_text()
    return text_of(path)


def parse(source: Source) -> Specification:
    """The checked specification. Raises SpecificationError."""
    tree = tree_of(source.text, "specification")
    if "cases" not in tree:
        # A file of one case may leave the list out: its sections then stand at the top.
        top = {key: tree.pop(key) for key in list(tree) if key != "seed"}
        tree["cases"] = [top]
    for setting in source.settings:
        apply(tree, setting)
    if source.seed is not None:
        tree["seed"] = source.seed
    check_tree(tree, "specification")
    try:
        return Specification.model_validate(tree, strict=True)
    except ValidationError as error:
        raise explain(error, "specification", sorted(CaseSpecification.model_fields)) from error


def apply(tree: dict[str, Any], setting: str) -> None:
    """Set `section.key=value` in place: in every case, unless the path starts with `cases` or `seed`."""
    path, equals, text = setting.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise SpecificationError(
            f"--set {setting}",
            expected="section.key=value",
            found=repr(setting),
            remedy="write for example --set model.name=mlp",
        )
    roots = [tree] if keys[0] in ("seed", "cases") else tree["cases"]
    if not isinstance(roots, list):
        raise SpecificationError(
            "specification.cases",
            expected="a list of cases",
            found=repr(roots),
            remedy="write [[cases]]",
        )
    for root in roots:
        put(root, keys, value_of(text.strip(), f"--set {setting}"), setting)


def value_of(text: str, where: str) -> Any:
    """Return a TOML value. Text that is none is a string, so that quotes may be left out.

    Raises SpecificationError for a value that `tree_of` refuses otherwise.
    """
    try:
        tree = tree_of(f"value = {text}", where)
    except SpecificationError as error:
        if isinstance(error.__cause__, tomllib.TOMLDecodeError):
            return text
        raise
    # More than a value: text of several lines, which is none.
    return tree["value"] if len(tree) == 1 else text


def put(root: Any, keys: Sequence[str], value: Any, setting: str) -> None:
    """Follow keys (integers index lists) and set the last, making sections on the way."""
    node = root
    for key in keys[:-1]:
        if isinstance(node, list) and is_index(key, node):
            child: Any = node[int(key)]
            if isinstance(child, str):
                child = node[int(key)] = {"name": child}
        elif isinstance(node, dict):
            child = node.setdefault(key, {})
            if isinstance(child, str):
                child = node[key] = {"name": child}
        else:
            child = None
        if not isinstance(child, (dict, list)):
            raise SpecificationError(
                f"--set {setting}",
                expected="a path that the specification has",
                found=f"nothing at {key!r}",
                remedy="lists are indexed from 0, as in attacks.0.steps",
            )
        node = child
    last = keys[-1]
    if isinstance(node, list) and is_index(last, node):
        node[int(last)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise SpecificationError(
            f"--set {setting}",
            expected="a key of a section, or an index of a list",
            found=repr(last),
            remedy="lists are indexed from 0, as in attacks.0.steps",
        )


def is_index(key: str, values: Sequence[Any]) -> bool:
    """Return whether a key is the index of one of the values. It may have any number of digits."""
    return key.isascii() and key.isdigit() and len(key) < 10 and int(key) < len(values)
