"""Independent programs, one on each executor."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from tfos_fast.compat import util
from tfos_fast.compat.TFCluster import InputMode, default_fs
from tfos_fast.compat.TFSparkNode import TFNodeContext


def run(sc: Any, map_fn: Callable[[Any, Any], Any], tf_args: Any, num_executors: int, use_barrier: bool = True) -> None:
    """Run ``map_fn(args, ctx)`` so many times, each with a TensorFlow of its own; returns when all have ended.

    Parameters
    ----------
    sc : SparkContext
    map_fn : callable
    tf_args : object
    num_executors : int
    use_barrier : bool
        True: all at once, each in a fresh process, and refused when there are too few slots. False: as Spark tasks, as slots come.

    Raises
    ------
    NotEnoughSlots
    NodeFailed
        ``map_fn`` raised, with ``use_barrier``; else Spark's own error.
    """
    import tfos_fast
    from tfos_fast.compat.node import NodeMain, if_dropin

    root, folder = default_fs(sc), os.getcwd()
    num_gpus = getattr(tf_args, "num_gpus", None)
    if use_barrier:
        main = NodeMain(if_dropin(), map_fn, root, folder, (), True, num_executors)
        cluster = tfos_fast.run(
            sc, main, tf_args, num_executors, input_mode=InputMode.TENSORFLOW, num_gpus=num_gpus, reservation_timeout=600
        )
        cluster.shutdown()
        return

    def task(number: int, _: Iterable[Any]) -> Iterable[Any]:
        util.single_node_env(1 if num_gpus is None else num_gpus, number)
        ctx = TFNodeContext(number, defaultFS=root, working_dir=folder)
        ctx.num_workers = num_executors
        map_fn(tf_args, ctx)
        return []

    sc.parallelize(range(num_executors), num_executors).mapPartitionsWithIndex(task).collect()
