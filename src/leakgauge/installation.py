"""Required packages whose import may fail: an installation that is broken, or a file of the same name.

The command looks before it imports its own modules, whose tracebacks would tell nothing of that.
"""

from __future__ import annotations

import importlib

from leakgauge.core.errors import UserError
from leakgauge.core.lines import describe_error

NEEDED = {"numpy": "ndarray", "pydantic": "BaseModel", "rich": "print", "torch": "nn"}
"""Packages that every command needs, each with a name that tells it from another module of the same name."""


def check_installation() -> None:
    """Raise UserError for the first required package that cannot be imported, or is another module."""
    for package, member in NEEDED.items():
        try:
            found = importlib.import_module(package)
        except KeyboardInterrupt:
            raise
        # A broken library raises anything, and a file of the same name may end the program.
        except BaseException as error:
            raise _broken(package, describe_error(error)) from error
        if not hasattr(found, member):
            place = getattr(found, "__file__", None) or "a folder without code"
            raise _broken(package, f"{place}, which has no {member!r}")


def _broken(package: str, found: str) -> UserError:
    return UserError(
        f"package {package!r}",
        expected="an installation that can be imported",
        found=found,
        remedy=f"run `pip install --force-reinstall {package}`, and see that no file {package}.py lies in PYTHONPATH",
    )
