"""Which engine a user's SparkContext or SparkSession stands for."""

from __future__ import annotations

from typing import Any

from tfos_fast.cluster.spark.engine import Engine


def engine_of(spark: Any) -> Engine:
    """The way to the Spark application that a user's object stands for.

    Parameters
    ----------
    spark : SparkContext or SparkSession
        The session may be one of Spark Connect.

    Raises
    ------
    TypeError
    """
    if type(spark).__module__.startswith("pyspark.sql.connect") and hasattr(spark, "client"):
        from tfos_fast.cluster.spark.connect_engine import Connect

        return Connect(spark)
    context = getattr(spark, "sparkContext", spark)
    if not hasattr(context, "_jsc"):
        raise TypeError(f"a SparkContext or a SparkSession is needed, not {spark!r:.200}")
    from tfos_fast.cluster.spark.context_engine import Classic

    return Classic(context)
