"""DataFrames: telling them from RDDs, and the size of their Arrow batches."""

from __future__ import annotations

from typing import Any

BATCH_BYTES = 2**21  # of an Arrow batch from the JVM: each costs 0.25 ms beside its memory
BATCH_RECORDS = 1024  # where Spark cannot count bytes, and a row may be large
_BYTES = "spark.sql.execution.arrow.maxBytesPerBatch"
_RECORDS = "spark.sql.execution.arrow.maxRecordsPerBatch"


def is_frame(data: Any) -> bool:
    """Whether this is a Spark DataFrame (it can ``mapInArrow``) and no RDD."""
    return hasattr(data, "mapInArrow")


def in_small_batches(sc: Any, frame: Any) -> Any:
    """The same DataFrame with Arrow batches of a size that stays in the processor's caches on their way to the slots.

    Spark's default, 10000 rows, is 31 MB of 784 floats. The setting belongs to a session and is read when the plan is made, so
    the frame's plan goes to a copy of its session (which shares what is cached); the user's own session stays as it is. When that
    session says how large batches are to be, this holds.
    """
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import BooleanType, DateType, NumericType, TimestampNTZType, TimestampType

    if not hasattr(frame, "_jdf"):
        return frame
    fixed = (NumericType, BooleanType, DateType, TimestampType, TimestampNTZType)
    session = frame.sparkSession._jsparkSession.cloneSession()
    conf = session.conf()
    told = conf.getAll()
    if conf.isModifiable(_BYTES):  # since Spark 4.1
        name, value = _BYTES, str(BATCH_BYTES)
    elif any(not isinstance(field.dataType, fixed) for field in frame.schema.fields):
        name, value = _RECORDS, str(BATCH_RECORDS)
    else:
        return frame
    if told.contains(name):
        return frame
    conf.set(name, value)
    dataset = sc._jvm
    for part in frame._jdf.getClass().getName().split("."):
        dataset = getattr(dataset, part)
    return DataFrame(dataset.ofRows(session, frame._jdf.queryExecution().analyzed()), SparkSession(sc, session))
