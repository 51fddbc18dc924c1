"""One modality for each domain: how its examples are scored, judged and shown. One kind of data, one file.

`modality_of` looks it up: a user's own domain brings its own as `domain.modality`, others go by their kind. Sees
core, metrics and records, and of models the networks whose weights they find.

`__init__.pyi` lists the names. Each is imported when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
