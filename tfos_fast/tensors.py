"""The feed as a TensorFlow program sees it. The code is in :mod:`tfos_fast.tf`."""

from __future__ import annotations

from tfos_fast.tf.declarations import MASK, null_policies, row_spec
from tfos_fast.tf.feed import DataFeed
from tfos_fast.tf.tensors import alias, to_tensor

__all__ = ["MASK", "DataFeed", "alias", "null_policies", "row_spec", "to_tensor"]
