"""What a feed can read, and the Spark action that feeds it: rows of an RDD, its pickled batches, a DataFrame, Parquet files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tfos_fast.cluster.columnar import Parquet
from tfos_fast.cluster.feeder import Feeder
from tfos_fast.cluster.frames import in_small_batches, is_frame
from tfos_fast.cluster.splits import Order
from tfos_fast.cluster.stored import loads_of, pickled_batches

Action = Callable[[], Any]


class Source:
    """What one call of ``feed`` reads, epoch by epoch. Made by :func:`source_of`.

    Parameters
    ----------
    sc : SparkContext
    tasks : callable
        ``tasks(feeder)``: an RDD or DataFrame of which each partition, when it is computed, feeds a partition of the data.
    """

    def __init__(self, sc: Any, tasks: Callable[[Feeder], Any]) -> None:
        self._sc = sc
        self._tasks = tasks

    def action(self, feeder: Feeder, order: Order | None = None) -> Action:
        """The Spark action of one epoch, to be called in the thread that waits for it.

        Parameters
        ----------
        feeder : Feeder
        order : Order, optional
            Launch the tasks in this order. Partitions keep their numbers.
        """
        tasks = self._tasks(feeder)
        if order is None and (feeder.only is None or is_frame(tasks)):
            return tasks.collect  # tasks of a DataFrame's partitions that are whole end at once
        return lambda: _run_in_order(self._sc, tasks, order, feeder.only)


def source_of(sc: Any, data: Any) -> Source:
    """What is to be done with the data of a feed.

    Raises
    ------
    SourceError
        Of files: there are none, or they cannot be read.
    """
    if isinstance(data, Parquet):
        splits, reader = data.plan(sc.defaultParallelism)
        rdd = sc.parallelize(splits, max(len(splits), 1))
        return Source(sc, lambda feeder: rdd.mapPartitionsWithIndex(feeder.files(reader)))
    if is_frame(data):
        frame = in_small_batches(sc, data)
        return Source(sc, lambda feeder: frame.mapInArrow(feeder.batches, "partition int, whole boolean, over boolean"))
    batches = pickled_batches(data)
    if batches is not None:
        return Source(sc, lambda feeder: batches.mapPartitionsWithIndex(feeder.pickled(loads_of(data))))
    return Source(sc, lambda feeder: data.mapPartitionsWithIndex(feeder.rows))


def _run_in_order(sc: Any, tasks: Any, order: Order | None, only: frozenset[int] | None) -> Any:
    """Run a job whose tasks are launched in an order, with ``only`` for some partitions.

    Spark launches the tasks of a job in the order in which its partitions are listed, as far as locality lets it
    (apache/spark, core/src/main/scala/org/apache/spark/scheduler/TaskSetManager.scala, ``addPendingTask``).
    """
    rdd = tasks.rdd if is_frame(tasks) else tasks
    count = rdd.getNumPartitions()
    numbers = [n for n in (order.of(count) if order else range(count)) if only is None or n in only]
    return sc.runJob(_Ready(rdd), list, numbers) if numbers else []


class _Ready:
    """An RDD for ``runJob`` that is run as it is: ``runJob`` maps a function over it first, and for that each task of a DataFrame
    would need a second Python worker."""

    def __init__(self, rdd: Any) -> None:
        self._rdd = rdd

    def mapPartitions(self, *_: Any) -> Any:
        """The RDD."""
        return self._rdd
