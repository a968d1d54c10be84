"""A column of every Spark SQL type with the values that go wrong most easily, and how two values are compared."""

from __future__ import annotations

import struct
from typing import Any

from pyspark.ml.linalg import Vectors, VectorUDT
from pyspark.sql.types import IntegerType, StructField, StructType

DATES = ["0001-01-01", "1582-10-04", "1582-10-10", "1582-10-15", "1969-12-31", "1970-01-01", "2011-12-30", "9999-12-31"]
# In the session's time zone, with those that clocks skip and repeat in New York, and where Apia skipped a day.
CLOCKS = [
    "0001-01-03 00:00:00", "1582-10-10 12:00:00.000001", "1883-11-18 12:03:57.5", "1969-12-31 23:59:59.999999",
    "1970-01-01 00:00:00", "2011-12-30 12:00:00", "2023-03-12 02:30:00", "2023-11-05 00:30:00",
    "2023-11-05 01:30:00.5", "2023-11-05 02:30:00",
    "9999-12-30 00:00:00.000001",
]  # fmt: skip
# As they are on any clock: the repeated hour from both sides, nearly the first and the very last that ``collect()`` gives.
MOMENTS = [
    "2023-11-05 05:30:00 UTC", "2023-11-05 06:30:00 UTC", "0001-01-02 00:00:00 America/New_York",
    "9999-12-31 23:59:59.999999 America/New_York", "1677-09-21 00:12:43 UTC", "2262-04-11 23:47:17 UTC",
]  # fmt: skip


def _whole(kind: str, bits: int) -> list[str]:
    return [f"cast({value} as {kind})" for value in (-(2 ** (bits - 1)), -1, 0, 1, 2 ** (bits - 1) - 1)]


def _floats(kind: str, extremes: list[str]) -> list[str]:
    values = ["'NaN'", "'-Infinity'", "'Infinity'", "'-0.0'", "'0.0'", "'0.1'", *extremes]
    return [f"cast({value} as {kind})" for value in values]


_SINGLE: dict[str, list[str]] = {
    "boolean": ["true", "false"],
    "tinyint": _whole("tinyint", 8),
    "smallint": _whole("smallint", 16),
    "int": _whole("int", 32),
    "bigint": [f"cast('{value}' as bigint)" for value in (-(2**63), -1, 0, 2**53 + 1, 2**63 - 1)],
    "float": _floats("float", ["'3.4028235e38'", "'1.4e-45'", "'16777217'"]),
    "double": _floats("double", ["'1.7976931348623157e308'", "'4.9e-324'", "'9007199254740993'"]),
    "decimal(10,2)": ["cast('-99999999.99' as decimal(10,2))", "cast('0.01' as decimal(10,2))", "cast('0' as decimal(10,2))"],
    "decimal(38,18)": [f"cast('{sign}99999999999999999999.999999999999999999' as decimal(38,18))" for sign in ("", "-")],
    "decimal(38,0)": [f"cast('{'9' * 38}' as decimal(38,0))", "cast('-1' as decimal(38,0))"],
    "string": ["''", "'bird'", "'caf\\u00e9 \\u65e5\\u672c \\ud83d\\udc26'", "'a\\0b'", "' x '"],
    "binary": ["X''", "X'00FF'", "cast('bird' as binary)"],
    "date": [f"date'{date}'" for date in DATES],
    "timestamp": [f"timestamp'{clock}'" for clock in CLOCKS + MOMENTS],
    "timestamp_ntz": [f"timestamp_ntz'{clock}'" for clock in CLOCKS],
    "interval day to second": [
        "interval '0' day", "interval '-1 00:00:00.000001' day to second", "interval '106751991 04:00:54.775807' day to second",
        "interval '-106751991 04:00:54.775807' day to second",
    ],
}  # fmt: skip


def sql_types(spark: Any) -> dict[str, list[str]]:
    """Every type that this Spark has and that ``collect()`` gives: its name -> SQL expressions of values."""
    types = dict(_SINGLE)
    if not spark.version.startswith("3."):
        types["variant"] = [f"parse_json('{text}')" for text in ('{"a": [1, 2.5, null, "x"]}', "1", "null", "true")]
    if hasattr(__import__("pyspark.sql.types", fromlist=["x"]), "TimeType"):
        types["time"] = ["time'00:00:00'", "time'23:59:59.999999'", "time'12:00:00.5'"]
    for name, values in list(types.items()):
        first, last = values[0], values[-1]
        types[f"array<{name}>"] = [f"array({first}, null, {', '.join(values)})", f"array({last})", f"slice(array({first}), 1, 0)"]
        types[f"struct<{name}>"] = [f"named_struct('f', {value}, 'g', {i})" for i, value in enumerate(values)]
        types[f"struct<{name}>"].append(f"named_struct('f', if(true, null, {first}), 'g', 5)")
        types[f"map<string,{name}>"] = [f"map('k', {first}, 'l', {last})", f"map('n', {last})"]
    types["array<array<int>>"] = ["array(array(1), array(), null)", "array(array(1, 2), array(3))", "array(array(7))"]
    types["array<array<string>>"] = ["array(array('bird'))", "array(array(), null)", "array(array('a', null))"]
    types["array<struct>"] = ["array(named_struct('a', 1, 'b', 'x'), null)", "array(named_struct('a', cast(null as int), 'b', ''))"]
    types["array<map>"] = ["array(map('k', 1), null)", "array(map('a', 2, 'b', cast(null as int)))"]
    types["map<int,array<string>>"] = ["map(1, array('bird'), 2, array())", "map(-1, cast(null as array<string>))"]
    types["map<date,timestamp>"] = ["map(date'1969-12-31', timestamp'1969-12-31 00:00:00.000001')"]
    types["struct<struct>"] = ["named_struct('s', named_struct('a', 1, 'b', array('x')))", "named_struct('s', null)"]
    return types


FEW = [
    "boolean", "bigint", "float", "double", "decimal(38,18)", "string", "binary", "date", "timestamp", "timestamp_ntz",
    "array<string>", "array<int>", "array<timestamp>",
    "struct<date>", "map<string,double>", "array<struct>", "interval day to second", "vector",
]  # fmt: skip


_ROW_AND_VECTOR = StructType([StructField("row", IntegerType()), StructField("v", VectorUDT())])


def frame_of(spark: Any, names: list[str] | None = None) -> Any:
    """One row for each value, the shorter columns filled up with nulls: columns ``row`` and ``c0``, ``c1``, ...; one partition.

    Returns
    -------
    DataFrame, dict of str to str
        The second: names of columns -> names of types.
    """
    types = {name: values for name, values in sql_types(spark).items() if names is None or name in names}
    labels = {f"c{i}": name for i, name in enumerate(types)}
    longest = 2 + max(map(len, types.values()))

    def row(k: int) -> str:
        values = [f"{types[name][k] if k < len(types[name]) else 'null'} as {column}" for column, name in labels.items()]
        return f"select {k} as row, {', '.join(values)}"

    frame = spark.sql(" union all ".join(map(row, range(longest))))
    if names is None or "vector" in names:
        labels["v"] = "vector"
        vectors = [Vectors.dense([1.0, -0.0]), Vectors.sparse(3, {1: 2.0}), Vectors.dense([])]
        frame = frame.join(spark.createDataFrame([(k, vector) for k, vector in enumerate(vectors)], _ROW_AND_VECTOR), "row", "left")
    return frame.orderBy("row").coalesce(1).cache(), labels


def canonical(value: Any) -> Any:
    """The value with its types, so that equal means the same: bits of floats, names of structs, ``fold``."""
    kind = type(value).__name__
    if isinstance(value, float):
        return kind, "nan" if value != value else struct.pack(">d", value).hex()
    if hasattr(value, "__fields__"):
        return kind, tuple(value.__fields__), tuple(map(canonical, value))
    if isinstance(value, list | tuple):
        return kind, tuple(map(canonical, value))
    if isinstance(value, dict):
        return kind, sorted((canonical(key), canonical(item)) for key, item in value.items())  # a map of the JVM has no order
    if hasattr(value, "fold"):
        return kind, repr(value), value.fold
    return kind, repr(value)
