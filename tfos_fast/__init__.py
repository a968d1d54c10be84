"""The fast data plane for TensorFlow on Spark."""

from __future__ import annotations

import sys

from tfos_fast.errors import TfosError, UnsupportedPlatform

if not sys.platform.startswith("linux"):
    raise UnsupportedPlatform(
        f"tfos_fast needs Linux: it is built on memfd, pidfd and eventfd, which {sys.platform!r} does not have. "
        "Run it in a Linux container or virtual machine."
    )

__version__ = "0.1.0"

_CLUSTER_NAMES = ("Cluster", "InputMode", "reserve", "run")


def __getattr__(name: str):
    # The lifecycle imports pyspark; the channel must work without it.
    if name in _CLUSTER_NAMES:
        from tfos_fast import cluster

        return getattr(cluster, name)
    raise AttributeError(f"module 'tfos_fast' has no attribute {name!r}")


__all__ = ["Cluster", "InputMode", "TfosError", "reserve", "run"]
