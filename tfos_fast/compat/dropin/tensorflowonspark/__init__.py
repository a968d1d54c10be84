"""The name ``tensorflowonspark`` for tfos_fast.compat: only where ``tfos-fast dropin-path`` was put on the Python path.

Its modules are those of tfos_fast.compat themselves, so that patching one patches what runs.
"""

import logging
import sys
from importlib import import_module

from tfos_fast.compat import MODULES

# Programs rely on it: what they log is seen, and so is the address for stop_streaming.py.
logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s (%(threadName)s-%(process)d) %(message)s")

for _name in MODULES:
    _module = import_module(f"tfos_fast.compat.{_name}")
    sys.modules[f"{__name__}.{_name}"] = _module
    globals()[_name] = _module

__version__ = "2.2.5"  # the version whose names these are
