"""A user's own parts, named as `package.module:name`: their import, inspection and calls.

Naming a module runs its code. Apart from that, only functions, classes and objects that the module
itself defines are called. A specification from somebody else must not be able to call `os:system`
through this library.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from leakgauge.core.errors import LeakGaugeError, SpecificationError, UserError
from leakgauge.core.installed import is_ours_or_pythons
from leakgauge.core.lines import describe_error

PARTS = ("torch.nn",)
"""Modules of required packages that a reference may name nevertheless, since they make networks and losses."""
OURS = ("audit", "catalog", "cli", "report", "summary")
"""Modules of leakgauge that a reference must not name. They run audits and make no parts."""


def import_part(reference: str, where: str) -> Any:
    """Return the function, class or object that `reference` names.

    Args:
        reference: The name, in the form `package.module:name`.
        where: The option that holds the reference, for messages.

    Raises:
        SpecificationError: The reference has another form, its module cannot be imported or ends
            the program, or the name does not exist. It is also raised if the name belongs to Python
            or to a package that LeakGauge requires, directly or through others (see
            `required_distributions`).
    """
    module_name, _, attribute = reference.partition(":")
    names = attribute.split(".")
    if not all((*module_name.split("."), *names)) or ":" in attribute:
        raise SpecificationError(
            where,
            expected='a reference such as "package.module:name"',
            found=repr(reference),
            remedy="put one colon between the module and the name of the part",
        )
    # This check comes before the import, because importing some modules of Python already has
    # effects.
    _check_home(module_name, reference, where)
    with guard_user_code(where, f"a part that can be imported, not {reference!r}"):
        found: Any = importlib.import_module(module_name)
    for name in names:
        found = _look_up(found, name, reference, where)
    with guard_user_code(where, f"a part that can be inspected, not {reference!r}"):
        home = _module_of(found)
    if home in ("builtins", "types"):
        raise _no_part(reference, f"an object of type {type(found).__name__}", where)
    _check_home(home, reference, where)
    return found


def _look_up(owner: Any, name: str, reference: str, where: str) -> Any:
    """Return the member `name` of `owner`. Raise SpecificationError if there is none."""
    with guard_user_code(where, f"a name that can be looked up, not {reference!r}"):
        if hasattr(owner, name):
            return getattr(owner, name)
    raise SpecificationError(
        where,
        expected=f"a name in {getattr(owner, '__name__', type(owner).__name__)!r}",
        found=f"no {name!r}, which {reference!r} names",
        remedy="check its spelling",
    )


def _module_of(found: Any) -> str:
    """Return the name of the module that defines a function, a class, or the class of an object."""
    while isinstance(found, functools.partial):
        found = found.func
    found = inspect.unwrap(found) if callable(found) else found
    if inspect.isclass(found) or inspect.isroutine(found):
        return str(getattr(found, "__module__", None) or "builtins")
    return type(found).__module__


def _check_home(module: str, reference: str, where: str) -> None:
    """Raise SpecificationError for a module of Python, of a required package, or of ours that runs audits."""
    root, _, rest = module.partition(".")
    inside = any(f"{module}.".startswith(f"{part}.") for part in PARTS)
    if not inside and is_ours_or_pythons(root):
        raise _no_part(reference, f"a part of {root!r}", where)
    if root == "leakgauge" and rest.partition(".")[0] in OURS:
        raise _no_part(reference, f"a part of {module!r}", where)


def _no_part(reference: str, found: str, where: str) -> SpecificationError:
    """Return the error for a reference to something that is not a part of the user."""
    return SpecificationError(
        where,
        expected="a function, class or object of your own module",
        found=f"{reference!r}, {found}",
        remedy="write a function in a module of your own that calls it, and name that",
    )


@contextmanager
def guard_user_code(
    where: str,
    expected: str,
    *,
    remedy: str = "correct the name, or add its folder to PYTHONPATH",
    error: type[UserError] = SpecificationError,
) -> Iterator[None]:
    """Run a user's own code inside the block.

    Raise `error`, in one line, for any exception of that code. The message says which line of the
    user's code failed. Errors of LeakGauge and Ctrl-C pass unchanged. SystemExit and every other
    BaseException do not: a part must not end an audit.

    Args:
        where: The part that runs, for the message.
        expected: What was expected of the part, for the message.
        remedy: What to do, for the message.
        error: The class of the error to raise.
    """
    try:
        yield
    except (LeakGaugeError, KeyboardInterrupt):
        raise
    except BaseException as cause:
        raise error(where, expected=expected, found=_describe(cause), remedy=remedy) from cause


def _describe(cause: BaseException) -> str:
    """Return the type and the text of an exception, and the line of code that raised it."""
    frames = traceback.extract_tb(cause.__traceback__)
    own = [frame for frame in frames if frame.filename not in (__file__, importlib.__file__)]
    own = [frame for frame in own if not frame.filename.startswith("<")]
    place = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    return f"{describe_error(cause)}{place}"
