"""LeakGauge measures how much private training data leaks from shared gradients and updates.

`__init__.pyi` lists the public names. Each name is imported at its first use. So `leakgauge --help`
starts without torch.
"""

from leakgauge.interrupts import end_quietly, is_command

if is_command():
    # The imports below take seconds. Ctrl-C must not print their traceback.
    end_quietly()

from importlib.metadata import version

import lazy_loader

__version__ = version("leakgauge")
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
