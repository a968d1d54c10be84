"""DataFrames: telling them from RDDs, the size of their Arrow batches, and inference from one to another."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

from tfos_fast.cluster.columnar import Parquet
from tfos_fast.cluster.engine import engine_of
from tfos_fast.cluster.inferrer import Inferrer
from tfos_fast.errors import ClusterError

BATCH_BYTES = 2**21  # of an Arrow batch from the JVM: each costs 0.25 ms beside its memory
BATCH_RECORDS = 1024  # where Spark cannot count bytes, and a row may be large
_BYTES = "spark.sql.execution.arrow.maxBytesPerBatch"
_RECORDS = "spark.sql.execution.arrow.maxRecordsPerBatch"

SAMPLE = 16  # rows that are sent through main to learn the columns of its results


def is_frame(data: Any) -> bool:
    """Whether this is a Spark DataFrame (it can ``mapInArrow``) and no RDD."""
    return hasattr(data, "mapInArrow")


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


def infer_frame(
    frame: Any, inferrer: Inferrer, schema: Any, columns: Sequence[str] | None = None, keep: Sequence[str] | None = None
) -> Any:
    """A DataFrame of kept input columns and results, evaluated when Spark evaluates it.

    Raises
    ------
    ClusterError
        A column is not there, or would be there twice.
    """
    from pyspark.sql.types import StructType

    given = _names("columns", frame.columns if columns is None else columns, frame)
    kept = _names("keep", keep or (), frame)
    if not given:
        raise ClusterError("infer(columns=[]): main needs at least one column of the DataFrame")
    if schema is None:
        schema = sample_schema(frame if columns is None else frame.select(*map(_quoted, given)), inferrer)
    elif isinstance(schema, str):
        schema = _parse(schema, frame.sparkSession)
    twice = sorted(set(kept) & set(schema.names))
    if twice:
        raise ClusterError(f"infer(): {twice} would be both kept columns and results; leave them out of keep or of the schema")
    if columns is not None:  # no other column needs to leave the JVM
        frame = frame.select(*map(_quoted, dict.fromkeys([*given, *kept])))
    fields = {field.name: field for field in frame.schema}
    whole = StructType([*(fields[name] for name in kept), *schema])
    return frame.mapInArrow(inferrer.batches(schema, given, kept), whole)


def _names(setting: str, names: Sequence[str], frame: Any) -> list[str]:
    if isinstance(names, str):
        raise TypeError(f"infer({setting}={names!r}): a list of column names is wanted, such as [{names!r}]")
    names = list(names)
    unknown = [name for name in names if name not in frame.columns]
    if unknown:
        raise ClusterError(f"infer({setting}={names}): the DataFrame has no {unknown}; its columns are {frame.columns}")
    return names


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def sample_schema(frame: Any, inferrer: Inferrer) -> Any:
    """Send a few rows through ``main`` now and take the columns from their results.

    Raises
    ------
    ClusterError
        There are no rows to learn from.
    """
    from pyspark.sql import Row

    # As Arrow batches, as all rows go later: by way of Python rows a float would come as a double, and so fix the feed's columns.
    pieces = frame.limit(SAMPLE).mapInArrow(inferrer.samples, "results binary").collect()
    results = [result for piece in pieces for result in pickle.loads(piece["results"])]
    if not results:
        raise ClusterError("the columns of the results cannot be learned from an empty DataFrame; give infer() a schema")
    return frame.sparkSession.createDataFrame([Row(**as_columns(result)) for result in results]).schema


def as_columns(result: Any) -> dict[str, Any]:
    """A result of main by column names: its own, ``_1``, ``_2``, ... for a tuple, ``result`` for a single value."""
    if hasattr(result, "__fields__"):
        result = result.asDict()
    if isinstance(result, dict):
        named = result
    elif isinstance(result, tuple):
        named = {f"_{i}": value for i, value in enumerate(result, 1)}
    else:
        named = {"result": result}
    return {name: value.tolist() if hasattr(value, "tolist") else value for name, value in named.items()}


def _parse(text: str, session: Any) -> Any:
    from pyspark.sql.types import StructType

    kind = engine_of(session).parse(text)
    if not isinstance(kind, StructType):
        raise ClusterError(f"the schema {text!r} has no columns; write it as 'name type, name type'")
    return kind
