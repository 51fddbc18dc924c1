"""A user's own parts, named as `package.module:name`: imported, looked at, and called with care.

Whoever names a module has its code run. Nothing else than that module's own functions, classes and
objects is called: a specification of somebody else's must not reach `os:system` through our hands.
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
from leakgauge.core.lines import said

PARTS = ("torch.nn",)
"""Modules of required packages that make parts all the same: networks and losses."""
OURS = ("audit", "catalog", "cli", "report", "summary")
"""Modules of leakgauge that run audits rather than make their parts."""


def imported(reference: str, where: str) -> Any:
    """Return the function, class or object that `reference` names.

    Raises SpecificationError where the reference is of another form than `package.module:name`, the
    module cannot be imported or ends the program, it has no such name, or the name is of something
    that its user did not write. That is a part of Python, or of a package that LeakGauge requires,
    directly or through others, see `required_distributions`.
    """
    module_name, _, attribute = reference.partition(":")
    names = attribute.split(".")
    if not all((*module_name.split("."), *names)) or ":" in attribute:
        raise SpecificationError(
            where,
            expected='a reference such as "package.module:name"',
            found=repr(reference),
            remedy="put one colon between the module and the name of what it makes",
        )
    # Before it is imported: some modules of Python do things when they are.
    _check_home(module_name, reference, where)
    with foreign(where, f"package.module:name of something importable, not {reference!r}"):
        found: Any = importlib.import_module(module_name)
    for name in names:
        found = _member(found, name, reference, where)
    with foreign(where, f"a part that can be looked at, not {reference!r}"):
        home = _home(found)
    if home in ("builtins", "types"):
        raise _no_part(reference, f"an object of type {type(found).__name__}", where)
    _check_home(home, reference, where)
    return found


def _member(owner: Any, name: str, reference: str, where: str) -> Any:
    with foreign(where, f"a name that can be looked up, not {reference!r}"):
        if hasattr(owner, name):
            return getattr(owner, name)
    raise SpecificationError(
        where,
        expected=f"a name in {getattr(owner, '__name__', type(owner).__name__)!r}",
        found=f"no {name!r}, of {reference!r}",
        remedy="check its spelling",
    )


def _home(found: Any) -> str:
    """The module that defines a function or class; of an object, the one that defines its class."""
    while isinstance(found, functools.partial):
        found = found.func
    found = inspect.unwrap(found) if callable(found) else found
    if inspect.isclass(found) or inspect.isroutine(found):
        return str(getattr(found, "__module__", None) or "builtins")
    return type(found).__module__


def _check_home(module: str, reference: str, where: str) -> None:
    """Raise SpecificationError for a module of Python, of a required package, or one of ours that runs audits."""
    root, _, rest = module.partition(".")
    inside = any(f"{module}.".startswith(f"{part}.") for part in PARTS)
    if not inside and is_ours_or_pythons(root):
        raise _no_part(reference, f"something of {root!r}", where)
    if root == "leakgauge" and rest.partition(".")[0] in OURS:
        raise _no_part(reference, f"something of {module!r}", where)


def _no_part(reference: str, found: str, where: str) -> SpecificationError:
    return SpecificationError(
        where,
        expected="a function, class or object of your own module",
        found=f"{reference!r}, {found}",
        remedy="write a function in a module of your own that calls it, and name that",
    )


@contextmanager
def foreign(
    where: str,
    expected: str,
    *,
    remedy: str = "correct the name, or add its folder to PYTHONPATH",
    error: type[UserError] = SpecificationError,
) -> Iterator[None]:
    """Inside, a user's own code runs: what it raises becomes `error`, in one line, with its place.

    Our own errors pass, and so does Ctrl-C. SystemExit does not, nor another BaseException: a part must not
    end an audit.
    """
    try:
        yield
    except (LeakGaugeError, KeyboardInterrupt):
        raise
    except BaseException as cause:
        raise error(where, expected=expected, found=_told(cause), remedy=remedy) from cause


def _told(cause: BaseException) -> str:
    """The kind of an exception, what it says, and the line of code that raised it."""
    frames = traceback.extract_tb(cause.__traceback__)
    own = [frame for frame in frames if frame.filename not in (__file__, importlib.__file__)]
    own = [frame for frame in own if not frame.filename.startswith("<")]
    place = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    return f"{said(cause)}{place}"
