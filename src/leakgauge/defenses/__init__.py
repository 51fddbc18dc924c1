"""Defenses, by name. A specification's `name = "gaussian_noise"` is `GaussianNoise` here.

The file `__init__.pyi` lists the names. Each defense is imported when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
