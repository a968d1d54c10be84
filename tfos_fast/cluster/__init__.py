"""The cluster floor: nodes on Spark's executors that run a TensorFlow program and are fed by Spark tasks.

Its names are loaded when they are first asked for, so that agents and trainers, which live in this package too, need neither Spark
nor each other's modules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfos_fast.cluster.cluster import Cluster
    from tfos_fast.cluster.columnar import Parquet, parquet
    from tfos_fast.cluster.context import Context
    from tfos_fast.cluster.report import FeedReport
    from tfos_fast.cluster.reserving import reserve, run
    from tfos_fast.cluster.watching import InputMode

_HOMES = {
    "Cluster": "cluster",
    "Context": "context",
    "FeedReport": "report",
    "InputMode": "watching",
    "Parquet": "columnar",
    "parquet": "columnar",
    "reserve": "reserving",
    "run": "reserving",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"tfos_fast.cluster.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'tfos_fast.cluster' has no attribute {name!r}")


__all__ = ["Cluster", "Context", "FeedReport", "InputMode", "Parquet", "parquet", "reserve", "run"]
