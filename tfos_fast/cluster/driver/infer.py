"""Inference from one DataFrame to another."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

from tfos_fast.cluster.driver.result_schema import are_columns, arrow_schema, by_names
from tfos_fast.cluster.spark.frame_columns import FrameColumns, check_type, columns_of, fields_of, with_safe_names
from tfos_fast.cluster.spark.select import engine_of
from tfos_fast.cluster.tasks.infer import Inferrer
from tfos_fast.errors import ClusterError
from tfos_fast.values.spelling import meant, quoted

SAMPLE = 16  # rows that are sent through main to learn the columns of its results


def infer_frame(
    frame: Any, inferrer: Inferrer, schema: Any, columns: Sequence[str] | None = None, keep: Sequence[str] | None = None
) -> Any:
    """A DataFrame of kept input columns and results, evaluated when Spark evaluates it.

    Raises
    ------
    ClusterError
        A column is not there, or would be there twice.
    """
    from pyspark.sql.types import StructField, StructType

    fields = fields_of(frame)
    there = [field["name"] for field in fields]
    given = list(range(len(fields))) if columns is None else _places("columns", columns, there)
    kept = _places("keep", keep or (), there)
    if not given:
        raise ClusterError("infer(columns=[]): main needs at least one column of the DataFrame")
    told = columns_of(frame, [fields[place] for place in given])
    for place in kept:
        check_type(there[place], fields[place]["type"])
    frame, safe = with_safe_names(frame, there)
    tuples = False
    if schema is None:
        schema, tuples = sample_schema(_select(frame, safe, given), told, inferrer)
    elif isinstance(schema, str):
        schema = _parse(schema, frame.sparkSession)
    elif not isinstance(schema, StructType):
        raise ClusterError(f"infer(schema={schema!r:.200}) has no columns; give a text, such as 'name type', or a StructType")
    names = [there[place] for place in kept]
    twice = sorted(set(names) & set(schema.names))
    if twice:
        raise ClusterError(f"infer(): {twice} would be both kept columns and results; leave them out of keep or of the schema")
    sent = list(range(len(fields))) if columns is None else list(dict.fromkeys([*given, *kept]))
    whole = StructType([*(StructField.fromJson(fields[place]) for place in kept), *schema])
    places = {sent.index(place): name for place, name in zip(kept, names, strict=True)}
    run = inferrer.batches(arrow_schema(schema), told, [sent.index(place) for place in given], places, tuples)
    return _select(frame, safe, sent).mapInArrow(run, whole)


def _places(setting: str, names: Sequence[str], there: list[str]) -> list[int]:
    """Places of the named columns among those of the DataFrame."""
    if isinstance(names, str):
        raise TypeError(f"infer({setting}={names!r}): a list of column names is wanted, such as [{names!r}]")
    names = list(names)
    unknown = [name for name in names if name not in there]
    if unknown:
        text = f"the DataFrame has no column {quoted(unknown)}; its columns are {quoted(there)}{meant(unknown, there)}"
        raise ClusterError(f"infer({setting}={names}): {text}")
    twice = [name for name in names if there.count(name) > 1 or names.count(name) > 1]
    if twice:
        raise ClusterError(
            f"infer({setting}={names}): {twice[0]!r} is there {max(there.count(twice[0]), names.count(twice[0]))} times in "
            f"{'the DataFrame' if there.count(twice[0]) > 1 else setting}; name each column once (DataFrame.toDF renames them)"
        )
    return [there.index(name) for name in names]


def _select(frame: Any, names: list[str], places: list[int]) -> Any:
    """The DataFrame with the columns at these places alone: no other needs to leave the JVM. Spark finds them by these names."""
    return frame if places == list(range(len(names))) else frame.select(*(names[place] for place in places))


def sample_schema(frame: Any, columns: FrameColumns, inferrer: Inferrer) -> tuple[Any, bool]:
    """Send a few rows through ``main`` now and take the columns from their results.

    Returns
    -------
    StructType, bool
        The columns, and whether tuples hold their values.

    Raises
    ------
    ClusterError
        There are no rows to learn from, or their results do not tell the types.
    """
    from pyspark.sql import Row

    # As Arrow batches, as all rows go later: by way of Python rows a float would come as a double, and so fix the feed's columns.
    pieces = frame.limit(SAMPLE).mapInArrow(inferrer.samples(columns), "results binary").collect()
    results = [result for piece in pieces for result in pickle.loads(piece["results"])]
    if not results:
        raise ClusterError("the columns of the results cannot be learned from an empty DataFrame; give infer() a schema")
    try:
        learned = frame.sparkSession.createDataFrame([Row(**by_names(result)) for result in results]).schema
    except (TypeError, ValueError) as error:  # pyspark's, whose words are about its own functions
        why = " ".join(str(error).split())
        raise ClusterError(
            f"the columns of the results cannot be learned from the first {len(results)} results ({why}); give infer() a "
            f"schema, such as 'result double'; the first result is {results[0]!r:.200}"
        ) from None
    return learned, are_columns(results)


def _parse(text: str, session: Any) -> Any:
    from pyspark.sql.types import StructType

    kind = engine_of(session).parse(text)
    if not isinstance(kind, StructType):
        raise ClusterError(f"the schema {text!r} has no columns; write it as 'name type, name type'")
    return kind
