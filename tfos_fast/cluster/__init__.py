"""The cluster floor: nodes on Spark's executors that run a TensorFlow program and are fed by Spark tasks.

Its names are loaded when they are first asked for, so that agents and trainers, which live in this package too, need neither Spark
nor each other's modules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfos_fast.cluster.driver.cluster import Cluster
    from tfos_fast.cluster.driver.report import FeedReport
    from tfos_fast.cluster.driver.reserve import reserve, run
    from tfos_fast.cluster.driver.watch import InputMode
    from tfos_fast.cluster.files.parquet import Parquet, parquet
    from tfos_fast.cluster.trainer.context import Context

_HOMES = {
    "Cluster": "driver.cluster",
    "Context": "trainer.context",
    "FeedReport": "driver.report",
    "InputMode": "driver.watch",
    "Parquet": "files.parquet",
    "parquet": "files.parquet",
    "reserve": "driver.reserve",
    "run": "driver.reserve",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"tfos_fast.cluster.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'tfos_fast.cluster' has no attribute {name!r}")


__all__ = ["Cluster", "Context", "FeedReport", "InputMode", "Parquet", "parquet", "reserve", "run"]
