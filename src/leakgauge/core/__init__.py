"""Contracts and values that pass between the rooms of the package, and the errors.

`__init__.pyi` lists the names. Each name is imported at its first use, so that an error can be
raised without torch. No module here imports another room.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
