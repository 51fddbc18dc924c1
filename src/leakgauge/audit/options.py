"""Options of a part in a specification, checked against the signature of the part."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from difflib import get_close_matches
from itertools import product
from types import ModuleType
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from leakgauge.core import SpecificationError
from leakgauge.core.references import guard_user_code, import_part

Options = dict[str, Any]
CONTEXT = frozenset({"domain", "classes", "seed"})
"""Parameters that the audit fills in. A specification cannot set them."""

RENAMED = {"share": "fraction", "trials": "restarts"}
"""Options that were renamed in 0.3.0: the new name by the old one."""


def names(module: ModuleType) -> dict[str, Any]:
    """Return the exports of a module, by their names in a specification.

    For example, the name of `InvertingGradients` is inverting_gradients.
    """
    return {snake(name): getattr(module, name) for name in module.__all__}


def snake(name: str) -> str:
    """Return a name of CamelCase or of capitals in snake_case.

    DLG becomes dlg, LinearLayer becomes linear_layer, and DPFedAvg becomes dp_fedavg.
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", _words(name)).lower()


def _words(name: str) -> str:
    """Return the name with ViT, InstaHide and FedAvg spelled as one word each."""
    spelled = name.replace("ViT", "Vit").replace("InstaHide", "Instahide")
    return spelled.replace("DPFedAvg", "DP_Fedavg")


def find(name: str, known: Mapping[str, Any], where: str) -> Any:
    """Return the part called `name`. It is in `known`, or a user's own as `package.module:name`.

    Raises:
        SpecificationError: No part has this name.
    """
    if name in known:
        return known[name]
    if ":" in name:
        return import_part(name, where)
    close = get_close_matches(name, known, n=1)
    raise SpecificationError(
        where,
        expected=f"one of {', '.join(sorted(known))}, or your own as package.module:name",
        found=repr(name),
        remedy=f"did you mean {close[0]!r}?" if close else "correct the name",
    )


def check_options(part: Callable[..., Any], options: Mapping[str, Any], where: str) -> Options:
    """Return the options, checked against the names, types and ranges that `part` declares.

    Raises:
        SpecificationError: An option is unknown, missing, or has another type or range.
    """
    if not callable(part):
        raise SpecificationError(
            where,
            expected="a class or function",
            found=f"an object of type {type(part).__name__}",
            remedy="name a class, or a function that returns the part",
        )
    hints = type_hints(part)
    with guard_user_code(
        where,
        "a part whose options can be read",
        remedy="declare each option in the signature of the part",
    ):
        model = signature_model(part)
    # TOML has no tuples, and the strict check does not accept a list as a tuple.
    given = {
        name: tuple(value)
        if isinstance(value, list) and typing.get_origin(hints.get(name)) is tuple
        else value
        for name, value in options.items()
    }
    try:
        valid = model.model_validate(given, strict=True)
    except ValidationError as error:
        raise explain(error, where, sorted(model.model_fields)) from error
    return {name: getattr(valid, name) for name in valid.model_fields_set}


def type_hints(part: Callable[..., Any]) -> dict[str, Any]:
    """Return the types of a part's options, with their ranges."""
    # The hints of a dataclass are read from the class. Its `__init__` cannot resolve the names that fields of its
    # bases use in other modules.
    made = inspect.isclass(part) and not is_dataclass(part)
    maker = part.__init__ if made else part
    with guard_user_code(
        f"part {getattr(part, '__name__', type(part).__name__)!r}",
        "annotations that can be read",
        remedy="annotate with types that the module of the part imports at run time",
    ):
        return typing.get_type_hints(maker, include_extras=True)


def options_of(part: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the parameters of a part that a specification can set, by name."""
    unnamed = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return {
        name: parameter
        for name, parameter in inspect.signature(part).parameters.items()
        if name not in CONTEXT and parameter.kind not in unnamed
    }


def signature_model(part: Callable[..., Any]) -> type[BaseModel]:
    """Return a pydantic model with one field for each option of `part`."""
    hints = type_hints(part)
    fields: dict[str, Any] = {
        name: (hints.get(name, Any), ... if each.default is each.empty else each.default)
        for name, each in options_of(part).items()
    }
    parameters = inspect.signature(part).parameters.values()
    open_ended = any(each.kind is each.VAR_KEYWORD for each in parameters)
    config = ConfigDict(
        extra="allow" if open_ended else "forbid",
        arbitrary_types_allowed=True,
        protected_namespaces=(),
    )
    return create_model("Options", __config__=config, **fields)


def explain(error: ValidationError, where: str, known: Sequence[str]) -> SpecificationError:
    """Return an error with the first mistake that pydantic found, and the number of other mistakes."""
    first = error.errors()[0]
    path = ".".join(str(step) for step in first["loc"])
    expected = str(first["msg"]).removeprefix("Input should be ")
    remedy = "correct the value"
    if first["type"] == "extra_forbidden":
        given = str(first["loc"][-1])
        renamed = RENAMED.get(given)
        close = [renamed] if renamed in known else get_close_matches(given, known, n=1)
        expected = f"an option among {', '.join(known)}" if known else "no options"
        remedy = f"did you mean {close[0]!r}?" if close else "remove it"
    elif first["type"] == "missing":
        expected, remedy = "a value, as this option has no default", "add it"
    more = error.error_count() - 1
    missing = first["type"] == "missing"
    return SpecificationError(
        f"{where}.{path}" if path else where,
        expected=expected,
        found="nothing" if missing else repr(first["input"]),
        remedy=remedy + (f" (and {more} more)" if more else ""),
    )


def sweep(part: Callable[..., Any], options: Mapping[str, Any]) -> Iterator[Options]:
    """Yield the options once for each combination of swept values. See `swept`."""
    lists = swept(part, options)
    for values in product(*lists.values()):
        yield {**options, **dict(zip(lists, values, strict=True))}


def swept(part: Any, options: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the swept options: those that hold a list although `part` takes a single value."""
    if not callable(part):  # `check_options` reports this mistake.
        return {}
    hints = type_hints(part)
    return {
        name: value
        for name, value in options.items()
        if isinstance(value, list) and not takes_list(hints.get(name))
    }


def takes(hint: Any, kind: type) -> bool:
    """Return whether the type of an option is `kind` or a union that contains it."""
    return hint is kind or any(takes(argument, kind) for argument in typing.get_args(hint))


def takes_list(hint: Any) -> bool:
    """Return whether an option takes a list or tuple. A list is then one value, not a sweep."""
    origin = typing.get_origin(hint)
    if origin in (list, tuple, Sequence):
        return True
    return any(takes_list(argument) for argument in typing.get_args(hint))
