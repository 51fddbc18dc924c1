"""What travels between rooms, and the errors. Imports nothing else of ours.

`__init__.pyi` lists the names. Each is imported when it is first used, so that an error can be told without torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
