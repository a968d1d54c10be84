"""TensorFlowOnSpark's modules, names and signatures over tfos_fast, for scripts that exist.

``from tfos_fast.compat import TFCluster, TFNode`` is the migration (docs/migrating-from-tfos.md). ``tfos-fast dropin-path`` names a
folder in which the same modules are found as ``tensorflowonspark``, for scripts that are not to be touched.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

DROPIN = Path(__file__).parent / "dropin"  # holds the package tensorflowonspark
MODULES = (
    "TFCluster",
    "TFManager",
    "TFNode",
    "TFParallel",
    "TFSparkNode",
    "compat",
    "dfutil",
    "gpu_info",
    "marker",
    "pipeline",
    "reservation",
    "util",
)


def __getattr__(name: str) -> Any:
    if name in MODULES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(MODULES)}")


def __dir__() -> list[str]:
    return sorted({*globals(), *MODULES})
