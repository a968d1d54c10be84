"""DataFrames: telling them from RDDs, and inference from one to another."""

from __future__ import annotations

from typing import Any

from tfos_fast.cluster.feeder import Inferrer
from tfos_fast.errors import ClusterError

SAMPLE = 16  # rows that are sent through main to learn the columns of its results


def is_frame(data: Any) -> bool:
    """Whether this is a Spark DataFrame (it can ``mapInArrow``) and no RDD."""
    return hasattr(data, "mapInArrow")


def check_data(data: Any, where: str) -> None:
    """Refuse what is no RDD or DataFrame.

    Raises
    ------
    TypeError
    """
    if not is_frame(data) and not hasattr(data, "mapPartitionsWithIndex"):
        kind = type(data)
        name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__.partition('.')[0]} {kind.__name__}"
        raise TypeError(
            f"{where}() takes an RDD or a DataFrame of Spark, not a {name}; "
            "sc.parallelize(rows) or spark.createDataFrame(data) makes one"
        )


def infer_frame(frame: Any, inferrer: Inferrer, schema: Any) -> Any:
    """A DataFrame of results, evaluated when Spark evaluates it."""
    if schema is None:
        schema = sample_schema(frame, inferrer)
    elif isinstance(schema, str):
        schema = _parse(schema)
    return frame.mapInArrow(inferrer.batches(schema), schema)


def sample_schema(frame: Any, inferrer: Inferrer) -> Any:
    """Send a few rows through ``main`` now and take the columns from their results.

    Raises
    ------
    ClusterError
        There are no rows to learn from.
    """
    from pyspark.sql import Row

    results = frame.limit(SAMPLE).rdd.mapPartitionsWithIndex(inferrer.rows).collect()
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


def _parse(text: str) -> Any:
    from pyspark.sql.types import StructType, _parse_datatype_string

    kind = _parse_datatype_string(text)
    if not isinstance(kind, StructType):
        raise ClusterError(f"the schema {text!r} has no columns; write it as 'name type, name type'")
    return kind
