"""The fast data plane for TensorFlow on Spark: rows of RDDs and DataFrames become tensors of a running TensorFlow program.

``run(sc, main, args, num_executors)`` (or ``reserve`` and ``Cluster.start``) gives a ``Cluster`` with ``feed``, ``infer`` and
``shutdown``. In ``main(args, ctx)``, ``ctx.get_data_feed()`` is the feed: see :class:`tfos_fast.tf.feed.DataFeed`. The channel
below works without Spark: :mod:`tfos_fast.channel`. All errors: :mod:`tfos_fast.errors`.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from tfos_fast.errors import TfosError, UnsupportedPlatform

if not sys.platform.startswith("linux"):
    raise UnsupportedPlatform(
        f"tfos_fast needs Linux: it is built on memfd, pidfd and eventfd, which {sys.platform!r} does not have. "
        "Run it in a Linux container or virtual machine."
    )

# Libraries that were sent together with this package (tfos_fast.cluster.preflight.ship_package).
_along = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_along")
if os.path.isdir(_along) and _along not in sys.path:
    sys.path.insert(0, _along)

__version__ = "0.1.0"

_CLUSTER_NAMES = ("Cluster", "InputMode", "parquet", "reserve", "run")
_TENSOR_NAMES = ("MASK",)


def __getattr__(name: str) -> Any:
    # The lifecycle imports pyspark; the channel must work without it.
    if name in _CLUSTER_NAMES:
        from tfos_fast import cluster

        return getattr(cluster, name)
    if name in _TENSOR_NAMES:
        from tfos_fast import tensors

        return getattr(tensors, name)
    raise AttributeError(f"module 'tfos_fast' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_CLUSTER_NAMES, *_TENSOR_NAMES})


__all__ = ["MASK", "Cluster", "InputMode", "TfosError", "parquet", "reserve", "run"]
