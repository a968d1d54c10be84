"""Python values of Arrow arrays, as ``DataFrame.collect()`` gives them."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Callable
from typing import Any

from tfos_fast.channel.arrow import spark_types
from tfos_fast.channel.arrow.plain import bare, bare_type, by_type, days, exchanged, in_unit, is_encoded, is_list
from tfos_fast.errors import SchemaMismatch

Convert = Callable[[Any], Any]
_DAY_0 = datetime.date(1970, 1, 1).toordinal()
_TIME_0 = datetime.datetime(1970, 1, 1)


def python_values(array: Any, node: Any = None) -> tuple[Any, Convert | None]:
    """Split the way to Spark's values in two: an array, and what its items' ``as_py()`` have yet to go through (None: nothing).

    Dates and times are whole numbers in between: Arrow's own Python values know no years before 1 and no nanoseconds, and lose
    ``fold``.

    Parameters
    ----------
    array : pyarrow.Array
    node : str or dict, optional
        What Spark says of its type, see ``spark_types.py``.

    Raises
    ------
    SchemaMismatch
        A time is too large for 64 bits of microseconds, or a user's class is not to be found here.
    """
    if node is None and _is_direct(array.type):
        return array, converter(array.type)
    return bare(exchanged(array, _whole_numbers)), converter(array.type, node)


@by_type
def _is_direct(kind: Any) -> bool:
    """Whether Arrow's own Python values serve: no times, structs or maps, and nothing encoded."""
    import pyarrow as pa

    if pa.types.is_struct(kind) or pa.types.is_map(kind) or pa.types.is_temporal(kind) or is_encoded(kind):
        return False
    return all(_is_direct(kind.field(i).type) for i in range(kind.num_fields))


def _has_times(kind: Any) -> bool:
    import pyarrow as pa

    kind = bare_type(kind)
    return pa.types.is_temporal(kind) or any(_has_times(kind.field(i).type) for i in range(kind.num_fields))


def _whole_numbers(array: Any, _: Any) -> Any:
    import pyarrow as pa

    kind = array.type
    if pa.types.is_timestamp(kind) or pa.types.is_duration(kind):
        return in_unit(array, "us")
    if pa.types.is_time(kind):
        return in_unit(array, "ns")
    return days(array) if pa.types.is_date(kind) else None


def converter(kind: Any, node: Any = None) -> Convert | None:
    """What turns the whole numbers, lists and dicts of :func:`python_values` into Spark's values; None when they are the same."""
    import pyarrow as pa

    kind = bare_type(kind)
    if spark_types.is_value(node, kind):
        make = spark_types.maker(node, kind)
        return lambda value: make(tuple(value.values()))
    if spark_types.is_udt(node):
        make = spark_types.maker(node, kind)
        inside = converter(kind, spark_types.part_of(node, "sqlType"))
        return lambda value: make(_apply(inside, value))
    if pa.types.is_timestamp(kind):
        return _naive if kind.tz is None else _local
    if pa.types.is_date(kind):
        return _date
    if pa.types.is_duration(kind):
        return _timedelta
    if pa.types.is_time(kind):
        return _time
    if (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)) and collects_bytearrays():
        return bytearray
    if pa.types.is_struct(kind):
        names = [kind.field(i).name for i in range(kind.num_fields)]
        inner = [converter(kind.field(i).type, spark_types.field_of(node, i)) for i in range(kind.num_fields)]
        return lambda value: _row(names, list(map(_apply, inner, value.values())))
    if pa.types.is_map(kind):
        key = converter(kind.key_type, spark_types.part_of(node, "keyType"))
        item = converter(kind.item_type, spark_types.part_of(node, "valueType"))
        return lambda value: _dict([(_apply(key, pair["key"]), _apply(item, pair["value"])) for pair in value])
    if pa.types.is_interval(kind):
        raise SchemaMismatch(
            f"values of type {kind} (Spark's INTERVAL of months, days and microseconds) are no values of Python; feed numbers "
            "(extract) or text (cast to string), or leave the column out"
        )
    if pa.types.is_union(kind) and _has_times(kind):  # which of its types a whole number has would not be known
        raise SchemaMismatch(f"values of type {kind}, a union that holds times, cannot be read; feed a column for each type")
    if is_list(kind):
        of = converter(kind.value_type, spark_types.part_of(node, "elementType"))
        return None if of is None else lambda value: [_apply(of, each) for each in value]
    return None


def collects_bytearrays() -> bool:
    """Whether this pyspark gives binary values as ``bytearray`` (before 4.1); where there is none they are ``bytes``."""
    pyspark = sys.modules.get("pyspark")
    return pyspark is not None and tuple(map(int, pyspark.__version__.split(".")[:2])) < (4, 1)


def _apply(function: Convert | None, value: Any) -> Any:
    return value if function is None or value is None else function(value)


def _dict(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    try:
        return dict(pairs)
    except TypeError as error:
        raise SchemaMismatch(f"a map's key is no key of a dict in Python ({error}); feed map_entries() of the map") from error


def _local(microseconds: int) -> datetime.datetime:
    """Spark's timestamps are naive, in local time (pyspark.sql.types.TimestampType)."""
    try:
        return datetime.datetime.fromtimestamp(microseconds // 10**6).replace(microsecond=microseconds % 10**6)
    except (OverflowError, ValueError, OSError) as error:
        raise _no_value(microseconds, "datetime in local time", error) from error


def _naive(microseconds: int) -> datetime.datetime:
    try:
        return _TIME_0 + datetime.timedelta(microseconds=microseconds)
    except OverflowError as error:
        raise _no_value(microseconds, "datetime", error) from error


def _date(day: int) -> datetime.date:
    try:
        return datetime.date.fromordinal(_DAY_0 + day)
    except (OverflowError, ValueError) as error:
        raise SchemaMismatch(f"the day {day} after 1970-01-01 is no date of Python ({error}); collect() fails, too") from error


def _timedelta(microseconds: int) -> datetime.timedelta:
    return datetime.timedelta(microseconds=microseconds)


def _time(nanoseconds: int) -> datetime.time:
    try:
        seconds, rest = divmod(nanoseconds, 10**9)
        return datetime.time(seconds // 3600, seconds // 60 % 60, seconds % 60, rest // 1000)
    except ValueError as error:
        raise SchemaMismatch(f"{nanoseconds} nanoseconds after midnight are no time of a day: {error}") from error


def _no_value(microseconds: int, what: str, error: Exception) -> SchemaMismatch:
    return SchemaMismatch(
        f"the moment {microseconds} microseconds after 1970-01-01 UTC is no {what} of Python ({error}); collect() fails, too; "
        "feed its number (unix_micros) or text (cast to string), or read it with batches()"
    )


def _row(names: list[str], values: list[Any]) -> Any:
    try:
        from pyspark.sql.types import Row
    except ImportError:  # Arrow without Spark: a struct is a dict
        return dict(zip(names, values, strict=True))
    row = tuple.__new__(Row, values)
    row.__fields__ = names
    return row
