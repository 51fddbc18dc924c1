"""LeakGauge measures how much private training data leaks from shared gradients and updates.

`__init__.pyi` lists the public names. Each is imported when it is first used: `leakgauge --help` needs no torch.
"""

from leakgauge.interrupts import end_quietly, is_command

if is_command():
    # Ctrl-C must not show a traceback of the imports to come, which take seconds.
    end_quietly()

from importlib.metadata import version

import lazy_loader

__version__ = version("leakgauge")
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
