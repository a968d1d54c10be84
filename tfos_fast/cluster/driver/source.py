"""What a feed can read, and the Spark action that feeds it: rows of an RDD, its pickled batches, a DataFrame, Parquet files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tfos_fast.cluster.files.hive import INFER, ZONE
from tfos_fast.cluster.files.parquet import Parquet
from tfos_fast.cluster.files.splits import Order
from tfos_fast.cluster.spark.dataframe import is_frame
from tfos_fast.cluster.spark.engine import Engine
from tfos_fast.cluster.spark.frame_columns import columns_of, fields_of, with_safe_names
from tfos_fast.cluster.spark.pickled_rdd import loads_of, pickled_batches
from tfos_fast.cluster.spark.select import engine_of
from tfos_fast.cluster.tasks.feed import Feeder
from tfos_fast.errors import NeedsSparkContext

Action = Callable[[], Any]


class Source:
    """What one call of ``feed`` reads, epoch by epoch. Made by :func:`source_of`.

    Parameters
    ----------
    engine : Engine
        What runs its jobs.
    start : callable
        ``start(feeder, numbers)``: the action. ``numbers``: of how many partitions -> those to compute, in this order; or None.
    """

    def __init__(self, engine: Engine, start: Callable[[Feeder, Callable[[int], list[int]] | None], Action]) -> None:
        self.engine = engine
        self._start = start

    def action(self, feeder: Feeder, order: Order | None = None) -> Action:
        """The Spark action of one epoch, to be called in the thread that waits for it.

        Parameters
        ----------
        feeder : Feeder
        order : Order, optional
            Launch the tasks in this order. Partitions keep their numbers.
        """
        only = feeder.only

        def numbers(count: int) -> list[int]:
            return [n for n in (order.of(count) if order else range(count)) if only is None or n in only]

        return self._start(feeder, None if order is None and only is None else numbers)


def check_data(data: Any, where: str) -> None:
    """Refuse what can not be fed.

    Raises
    ------
    TypeError
    """
    if isinstance(data, Parquet):
        if where == "feed":
            return
        files = ", ".join(map(repr, data.paths))
        raise TypeError(f"{where}() takes an RDD or a DataFrame of Spark, not files; spark.read.parquet({files}) is one")
    if not is_frame(data) and not hasattr(data, "mapPartitionsWithIndex"):
        kind = type(data)
        name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__.partition('.')[0]} {kind.__name__}"
        raise TypeError(
            f"{where}() takes an RDD or a DataFrame of Spark, not a {name}; "
            "sc.parallelize(rows) or spark.createDataFrame(data) makes one"
        )


def check_engine(engine: Engine, data: Any) -> None:
    """Refuse what Spark Connect does not have, and data of a SparkContext that was stopped.

    Raises
    ------
    NeedsSparkContext, ClusterError
    """
    if not (engine.rdds or is_frame(data) or isinstance(data, Parquet)):
        raise NeedsSparkContext(
            f"the cluster was reserved through Spark Connect, which has no RDDs, and is given a {type(data).__name__}; use a "
            "DataFrame or tfos_fast.parquet(path), or reserve with a SparkContext"
        )
    if isinstance(data, Parquet):
        return
    context = engine_of(data.sparkSession).key if is_frame(data) else getattr(data, "ctx", None)
    if hasattr(context, "_jsc"):
        from tfos_fast.cluster.spark.context_engine import check_context

        check_context(context, "make the data anew with the one that the cluster was reserved with")


def _session_settings(engine: Engine) -> dict[str, str]:
    """Of the application and, where there is one, its session: types of directory columns and the zone of their timestamps."""
    session = engine.key
    if engine.rdds:
        from pyspark.sql import SparkSession

        # A thread of the user's may have no active session.
        session = SparkSession.getActiveSession() or getattr(SparkSession, "_instantiatedSession", None)
    settings = dict(engine.settings())
    return settings if session is None else settings | {name: str(session.conf.get(name)) for name in (INFER, ZONE)}


def source_of(engine: Engine, data: Any, *, shuffle: bool = False) -> Source:
    """What is to be done with the data of a feed.

    Raises
    ------
    SourceError
        Of files: there are none, or they cannot be read.
    SchemaMismatch
        A column of a DataFrame has a type that cannot be fed.
    NeedsSparkContext
        Spark Connect cannot do this.
    """
    check_engine(engine, data)
    if isinstance(data, Parquet):
        splits, reader = data.plan(engine.parallelism(), _session_settings(engine))

        def files(feeder: Feeder, numbers: Callable[[int], list[int]] | None) -> Action:
            chosen = None if numbers is None else numbers(len(splits))
            return lambda: engine.run(feeder.files(reader), splits, numbers=chosen)

        return Source(engine, files)
    if is_frame(data):
        engine = engine_of(data.sparkSession)  # whichever session the frame is of
        if shuffle and not engine.rdds:
            raise NeedsSparkContext(
                "feed(shuffle=True) of a DataFrame needs a SparkContext: through Spark Connect nobody can say in which order Spark "
                "launches its tasks. Shuffle in main (dataset(shuffle=)), or feed tfos_fast.parquet(path), which is shuffled here"
            )
        columns = columns_of(data, fields_of(data))
        frame = engine.small_batches(with_safe_names(data, columns.names)[0])

        def batches(feeder: Feeder, numbers: Callable[[int], list[int]] | None) -> Action:
            fed = "partition int, whole boolean, over boolean, missed boolean, error string"
            tasks = frame.mapInArrow(feeder.batches(columns), fed)
            # Without an order tasks of partitions that are whole end at once.
            return lambda: engine.collect(tasks, numbers if shuffle else None)

        return Source(engine, batches)
    stored = pickled_batches(data)

    def rows(feeder: Feeder, numbers: Callable[[int], list[int]] | None) -> Action:
        tasks = (
            data.mapPartitionsWithIndex(feeder.rows)
            if stored is None
            else stored.mapPartitionsWithIndex(feeder.pickled(loads_of(data)))
        )
        return lambda: engine.collect(tasks, numbers)

    return Source(engine, rows)
