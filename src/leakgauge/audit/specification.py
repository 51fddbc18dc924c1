"""Specifications in TOML: each is parsed into one checked object before anything runs."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    WrapValidator,
)
from pydantic_core import PydanticCustomError

from leakgauge.audit.options import explain
from leakgauge.audit.toml import check_tree, text_of, tree_of
from leakgauge.core import SpecificationError
from leakgauge.core.ranges import Count


def _to_table(value: Any) -> Any:
    """Return the table of a part. A text is the name of the part. Return other values unchanged."""
    return {"name": value} if isinstance(value, str) else value


def _to_list(value: Any) -> Any:
    """Return a list unchanged, and any other value as a list of one value."""
    return value if isinstance(value, list) else [value]


def _check_printable(value: str) -> str:
    """Return a name unchanged. Raise an error for pydantic unless it is printable and short enough."""
    if not value.isprintable() or len(value) > LONGEST_NAME:
        raise PydanticCustomError(
            "name", f"a name of at most {LONGEST_NAME} printable characters in one line"
        )
    return value


class Part(BaseModel):
    """The name of a part and its options. In TOML: `"dlg"`, or `{name = "dlg", steps = 100}`."""

    model_config = ConfigDict(extra="allow")
    name: str

    @property
    def options(self) -> dict[str, Any]:
        """All fields except the name."""
        return dict(self.model_extra or {})


LONGEST_NAME = 200
"""Largest number of characters in the name of a case."""
Named = Annotated[Part, BeforeValidator(_to_table)]


def _to_parts(value: Any, several: Callable[[Any], list[Part]]) -> list[Part]:
    """Return the parts of a list, or those of one part. The place of a mistake has no index then."""
    if isinstance(value, list):
        return several(value)
    return [TypeAdapter(Named).validate_python(value, strict=True)]


class TrainingPart(Part):
    """Local training and the number of examples in a batch. A list of numbers is a sweep."""

    name: str = "fedsgd"
    batch_size: Annotated[list[Count], BeforeValidator(_to_list), Field(min_length=1)] = [1]


class ThreatPart(Part):
    """A threat model and its options."""

    name: str = "server"


class CaseSpecification(BaseModel):
    """One case: every attack against every defense at every batch size. A list of models makes a case of each."""

    model_config = ConfigDict(extra="forbid")
    name: Annotated[str, AfterValidator(_check_printable)] | None = None
    data: Named
    model: Annotated[list[Named], WrapValidator(_to_parts), Field(min_length=1)]
    loss: str = "cross_entropy"
    training: Annotated[TrainingPart, BeforeValidator(_to_table)] = TrainingPart()
    threat: Annotated[ThreatPart, BeforeValidator(_to_table)] = ThreatPart()
    attacks: Annotated[list[Named], BeforeValidator(_to_list), Field(min_length=1)]
    defenses: Annotated[list[Named], BeforeValidator(_to_list), Field(min_length=1)] = [
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
    """A specification before it is parsed.

    Args:
        text: The specification in TOML.
        settings: Changes to it, each a text `section.key=value`.
        seed: The root seed, at least 0, in place of the specification's. None keeps the specification's.

    Example:
        >>> from leakgauge.audit import Source, default_text, parse
        >>> source = Source(default_text(), settings=("model.name=mlp",), seed=3)
        >>> parse(source).seed
        3
    """

    text: str
    settings: tuple[str, ...] = ()
    seed: int | None = None


def default_text() -> str:
    """Return the specification that `leakgauge audit` runs by default.

    Example:
        >>> from leakgauge.audit import default_text
        >>> "[[cases]]" in default_text()
        True
    """
    return resources.files("leakgauge.audit").joinpath("default.toml").read_text("utf-8")


def read(path: str | Path | None) -> str:
    """Return the text of a specification file.

    Args:
        path: The file. None returns the default specification.

    Raises:
        SpecificationError: The file cannot be read, is not UTF-8, or is larger than 1 MiB.

    Example:
        >>> from leakgauge.audit import default_text, read
        >>> read(None) == default_text()
        True
    """
    if path is None:
        return default_text()
    return text_of(path)


def parse(source: Source) -> Specification:
    r"""Return the checked specification.

    Args:
        source: The text of the specification, with settings that change it.

    Raises:
        SpecificationError: The text is not TOML, or a key or value is wrong.

    Example:
        >>> from leakgauge.audit import Source, parse
        >>> text = 'data = "digits"\nmodel = "mlp"\nattacks = ["linear_layer"]'
        >>> specification = parse(Source(text))
        >>> [case.data.name for case in specification.cases]
        ['digits']
    """
    tree = tree_of(source.text, "specification")
    if "cases" not in tree:
        # A file with one case may have its sections at the top level, without the list `cases`.
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
    """Apply a setting `section.key=value` to every case.

    If the path starts with `cases` or `seed`, apply the setting to the whole tree instead.
    """
    path, equals, text = setting.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise SpecificationError(
            f"--set {setting}",
            expected="section.key=value",
            found=repr(setting),
            remedy="write, for example, --set model.name=mlp",
        )
    roots = [tree] if keys[0] in ("seed", "cases") else tree["cases"]
    if not isinstance(roots, list):
        raise SpecificationError(
            "specification.cases",
            expected="a list of cases",
            found=repr(roots),
            remedy="begin each case with a line [[cases]]",
        )
    for root in roots:
        put(root, keys, value_of(text.strip(), f"--set {setting}"), setting)


def value_of(text: str, where: str) -> Any:
    """Return the TOML value of a text. If the text is not TOML, return it as a string, so quotes may be left out.

    Raises:
        SpecificationError: The value is TOML, but exceeds a limit of `tree_of`, for example the depth of nesting.
    """
    try:
        tree = tree_of(f"value = {text}", where)
    except SpecificationError as error:
        if isinstance(error.__cause__, tomllib.TOMLDecodeError):
            return text
        raise
    # If a text of several lines sets more keys than `value`, the whole text is a string.
    return tree["value"] if len(tree) == 1 else text


def put(root: Any, keys: Sequence[str], value: Any, setting: str) -> None:
    """Follow the keys from `root`, and set the value at the last one. Missing sections are added.

    In a list, a key is an index.
    """
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
                expected="a path to a section or list of the specification",
                found=f"no section or list at {key!r}",
                remedy="correct the path: lists are indexed from 0, as in attacks.0.steps",
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
            remedy="correct the path: lists are indexed from 0, as in attacks.0.steps",
        )


def is_index(key: str, values: Sequence[Any]) -> bool:
    """Return whether a key is the index of one of the values. The key may be any text, also of many digits."""
    return key.isascii() and key.isdigit() and len(key) < 10 and int(key) < len(values)
