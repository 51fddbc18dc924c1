"""Check that the required packages can be imported.

An import fails if an installation is broken, or if a file of the user has the name of a package. The command checks
this before it imports its own modules. A traceback from these modules would not name the cause.
"""

from __future__ import annotations

import importlib

from leakgauge.core.errors import UserError
from leakgauge.core.lines import describe_error

NEEDED = {"numpy": "ndarray", "pydantic": "BaseModel", "rich": "print", "torch": "nn"}
"""Packages that the command needs. Each stands beside a member that another module of the same name would lack."""


def check_installation() -> None:
    """Raise UserError for the first package that cannot be imported, or whose name belongs to another module."""
    for package, member in NEEDED.items():
        try:
            found = importlib.import_module(package)
        except KeyboardInterrupt:
            raise
        # A broken library may raise any exception. A file of the same name may even end the program.
        except BaseException as error:
            raise _broken(package, describe_error(error)) from error
        if not hasattr(found, member):
            place = getattr(found, "__file__", None) or "a folder without code"
            raise _broken(package, f"{place}, which has no {member!r}")


def _broken(package: str, found: str) -> UserError:
    """Return the error for a package that cannot be used."""
    return UserError(
        f"package {package!r}",
        expected="an installation that can be imported",
        found=found,
        remedy=f"run `pip install --force-reinstall {package}`, and check that no file {package}.py is in PYTHONPATH",
    )
