"""The columns of an inference's results: a declared schema in Arrow's types, or one learned from some results."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tfos_fast.errors import ClusterError
from tfos_fast.values.dtypes import named_fields, row_names
from tfos_fast.values.times import is_missing

if TYPE_CHECKING:
    import pyarrow as pa

_A_TIME = datetime.datetime(2000, 1, 1)
_WAYS = {
    "char": "declare string",
    "varchar": "declare string",
    "interval": "declare bigint, or interval day to second",
    "udt": "declare the struct or array that it is stored as",
}


def arrow_schema(schema: Any) -> pa.Schema:
    """The ``pyarrow.Schema`` of a Spark ``StructType``.

    Raises
    ------
    ClusterError
        Two columns have one name, or Spark takes no results of a type from Arrow.
    """
    import pyarrow as pa

    twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
    if twice:
        raise ClusterError(f"infer(schema=): {twice} would be there twice; give each column a name of its own")
    kinds = [_arrow_type(field.dataType, field.name) for field in schema]
    return pa.schema(
        [pa.field(field.name, kind, nullable=field.nullable) for field, kind in zip(schema, kinds, strict=True)],
    )


def _arrow_type(kind: Any, name: str) -> pa.DataType:
    from pyspark.sql.pandas.types import to_arrow_type

    try:
        try:
            return to_arrow_type(kind, timezone="UTC")  # what is written there does not change a moment
        except TypeError as error:
            if "timezone" not in str(error):
                raise
            return to_arrow_type(kind)  # before Spark 4.2 there is no choice
    except Exception as error:
        text = kind.simpleString()
        way = next((way for part, way in _WAYS.items() if part in text), "declare another type")
        raise ClusterError(f"infer(schema=): column {name!r} is {text}, which no result becomes through Arrow; {way}") from error


def by_names(result: Any) -> dict[str, Any]:
    """A result by column names, to learn their types: its own; ``_1``, ``_2``, ... of a tuple; ``result`` of a single value."""
    result = named_fields(result) or result
    names = row_names(result)
    if names is not None:
        named = dict(zip(names, result, strict=True))
    elif isinstance(result, dict):
        named = result
    elif isinstance(result, tuple):
        named = {f"_{i}": value for i, value in enumerate(result, 1)}
    else:
        named = {"result": result}
    return {str(name): _typical(value) for name, value in named.items()}


def are_columns(results: Sequence[Any]) -> bool:
    """Whether tuples among these results hold the values of columns, by position."""
    return any(isinstance(result, tuple) and row_names(result) is None for result in results)


def _typical(value: Any) -> Any:
    """A Python value for which Spark finds the type that this value has."""
    from pyspark.sql import Row

    if is_missing(type(value)):
        return None
    if hasattr(value, "numpy") and hasattr(value, "shape"):
        value = np.asarray(value.numpy())
    fields = named_fields(value)
    if fields is not None:
        return Row(**{name: _typical(field) for name, field in fields.items()})
    if isinstance(value, np.ndarray) and value.dtype.names:
        return [_typical(item) for item in value]
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "Mm":
        if not value.ndim:
            return None if np.isnat(value) else _A_TIME if value.dtype.kind == "M" else datetime.timedelta(1)
        return [_typical(item) for item in np.asarray(value)]
    if isinstance(value, datetime.datetime | datetime.timedelta) and type(value).__module__.startswith("pandas"):
        return _A_TIME if isinstance(value, datetime.datetime) else datetime.timedelta(1)
    if hasattr(value, "tolist"):
        return _typical(value.tolist())
    names = row_names(value)
    if names is not None and len(set(names)) == len(names):
        return Row(**{name: _typical(item) for name, item in zip(names, value, strict=True)})
    if type(value) in (list, tuple):
        return type(value)(map(_typical, value))
    if type(value) is dict:
        return {key: _typical(item) for key, item in value.items()}
    return value
