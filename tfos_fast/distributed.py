"""One feed for several nodes that train one model. The code is in :mod:`tfos_fast.tf.distributed`."""

from __future__ import annotations

from tfos_fast.tf.distributed import distribute

__all__ = ["distribute"]
