"""Modalities: how the examples of a domain are scored, judged and shown. Each kind of data has one file.

`modality_of` returns the modality of a domain. A user's own domain may bring its own modality, in
its property `modality`. Every other domain has the modality of its kind.

`__init__.pyi` lists the names. Each is imported when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
