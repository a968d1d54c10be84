"""Python values and arrays of numbers as Arrow arrays of a declared type. A value that the type does not hold is refused.

=================  ================================================================================================================
declared           takes
=================  ================================================================================================================
boolean            bools
integers           whole numbers in the range of the type, floats without a fraction
floats             numbers; a float that is finite must stay finite, an integer must keep its value
string             text; byte strings in UTF-8
binary             byte strings
date               dates; datetimes without a time zone, whose time is cut off; days since 1970-01-01
timestamp          datetimes (naive ones are local time), ``datetime64`` (UTC), microseconds since 1970-01-01 UTC
timestamp, no zone naive datetimes, ``datetime64``, microseconds
interval           ``timedelta``, ``timedelta64``, microseconds
time               ``datetime.time`` without a time zone
decimal            decimals and whole numbers that keep their digits
array              lists, tuples, arrays
map                dicts, lists of pairs
struct             dicts, Rows and named tuples by names; tuples and lists by position; vectors and other types of users
=================  ================================================================================================================

None, pandas' missing values and "not a time" are null.
"""

from __future__ import annotations

import datetime
import decimal
import itertools
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfos_fast.errors import SchemaMismatch
from tfos_fast.values import times
from tfos_fast.values.dtypes import named_fields, row_names

_MAX_ITEMS = 2**31 - 1  # of the offsets of a list
_VECTOR = ["type", "size", "indices", "values"]  # the fields of pyspark.ml.linalg.VectorUDT
_BYTES = (bytes, bytearray, memoryview)
_PLAIN = (bool, int, float, str, bytes, bytearray, type(None))  # what numpy does not need to be asked about


def to_array(values: Sequence[Any], field: Any) -> Any:
    """One column of Python values as a ``pyarrow.Array`` of the type of a ``pyarrow.Field``.

    Raises
    ------
    SchemaMismatch
        It names the column, the value and the type.
    """
    import pyarrow as pa

    try:
        return _build(values, field, field.name)
    except SchemaMismatch:
        raise
    except _Refused as error:
        raise refused(field, str(error)) from error
    except (pa.ArrowException, TypeError, ValueError, OverflowError, decimal.DecimalException) as error:
        raise refused(field, str(error)) from error


def refused(field: Any, why: str) -> SchemaMismatch:
    """Make the error for a column whose results do not become the declared type."""
    why = why.removeprefix(f"{field.name}: ")
    return SchemaMismatch(f"column {field.name!r} of the results, declared as {field.type}: {why}")


class _Refused(Exception):
    """Why a value is none of the type."""


def _build(values: Sequence[Any], field: Any, where: str, dead: int = 0) -> Any:
    """``dead``: how many of the values are None because what holds them is null."""
    import pyarrow as pa

    kinds = set(map(type, values))
    if not kinds.issubset(_PLAIN):
        values = [_python(value) for value in values]
        kinds = set(map(type, values))
    kind = field.type
    if pa.types.is_struct(kind):
        array = _structs(values, kind, where)
    elif pa.types.is_map(kind):
        array = _maps(values, kind, where)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        array = _lists(values, kind, where)
    elif pa.types.is_temporal(kind):
        array = _times(values, kind, where)
    else:
        array = _scalars(values, kinds - {type(None)}, kind, where)
    if not field.nullable and array.null_count > dead:
        raise _Refused(f"{where} has None, and the schema says that it has none (NOT NULL); give a value, or leave NOT NULL out")
    return array


def _python(value: Any) -> Any:
    """What stands for a value of numpy, pandas, TensorFlow or a user's type. Times and arrays with dimensions stay as they are."""
    kind = type(value)
    if times.is_missing(kind):
        return None
    if hasattr(value, "__UDT__") and not hasattr(value, "toArray"):  # a type of users; vectors and matrices may become lists
        return _python(value.__UDT__.serialize(value))
    if hasattr(value, "numpy") and hasattr(value, "shape"):  # an eager tensor
        value = np.asarray(value.numpy())
    if isinstance(value, np.ndarray) and not value.ndim:
        value = value[()]
    if value is np.ma.masked:
        return None
    if isinstance(value, np.longdouble) and np.isfinite(value) and not np.isfinite(float(value)):
        return value  # no number of Python
    if isinstance(value, np.generic) and value.dtype.kind not in "MmV":
        return float(value) if value.dtype.kind == "f" else value.item()
    if isinstance(value, np.generic) and value.dtype.kind == "V" and type(value).__module__ == "ml_dtypes":
        return value.item()
    return value


# ---- single values ----


def _scalars(values: Sequence[Any], kinds: set[type], kind: Any, where: str) -> Any:
    import pyarrow as pa

    def only(what: str, *taken: type) -> None:
        bad = {each for each in kinds if not issubclass(each, taken) or (each is bool and bool not in taken)}
        if bad:
            value = next(value for value in values if type(value) in bad)
            raise _Refused(f"{where}: {value!r:.200} is of type {type(value).__name__}, and {kind} takes {what}")

    if pa.types.is_boolean(kind):
        only("bools; compare, or give .astype(bool)", bool)
    elif pa.types.is_integer(kind):
        only("whole numbers; give .astype(int)", int, float)
        if any(issubclass(each, float) for each in kinds):
            values = [_whole(value, kind, where) for value in values]
    elif pa.types.is_floating(kind):
        only("numbers; give float(...), or .astype(float)", int, float)
        return _floats(values, kind, where)
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        only("text; give str(...)", str, bytes, bytearray)
    elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        only("byte strings; give .encode() of text, .tobytes() of an array", *_BYTES)
    elif pa.types.is_decimal(kind):
        only("decimals and whole numbers; give decimal.Decimal(str(...)), or declare double", decimal.Decimal, int)
        return _decimals(values, kind, where)
    elif pa.types.is_null(kind):
        only("nothing but None; declare the type of the column", type(None))
    else:
        raise _Refused(f"{where}: no result becomes a column of {kind}; declare another type")
    return pa.array(values, kind)


def _whole(value: Any, kind: Any, where: str) -> int | None:
    if value is None or type(value) is int:
        return value
    if value != value or value in (float("inf"), float("-inf")) or value != int(value):
        raise _Refused(f"{where}: {value!r} is no whole number, and the column is {kind}; round it, or declare double")
    return int(value)


def _floats(values: Sequence[Any], kind: Any, where: str) -> Any:
    import pyarrow as pa

    array = pa.array(values, kind)
    if kind != pa.float64():
        found = array.to_numpy(zero_copy_only=False)
        for i in np.flatnonzero(np.isinf(found)).tolist():
            if values[i] is not None and abs(values[i]) != float("inf"):
                raise _Refused(f"{where}: {values[i]!r} is out of the range of {kind}; declare double")
    return array


def _decimals(values: Sequence[Any], kind: Any, where: str) -> Any:
    import pyarrow as pa

    try:
        return pa.array(values, kind)
    except (pa.ArrowException, OverflowError):  # zeros at the end that the type has no room for, or a value that is not of the type
        return pa.array([None if value is None else _in_scale(value, kind, where) for value in values], kind)


def _in_scale(value: Any, kind: Any, where: str) -> decimal.Decimal:
    """The number with as many digits behind the point as the type has."""
    exact = decimal.Decimal(value)
    if exact.is_finite() and (not exact or exact.adjusted() < kind.precision - kind.scale):
        scaled = exact.quantize(decimal.Decimal((0, (1,), -kind.scale)), context=decimal.Context(prec=kind.precision))
        if scaled == exact:
            return scaled
    raise _Refused(f"{where}: {value!r:.200} has digits that {kind} does not hold; round it (.quantize), or declare a wider one")


def _times(values: Sequence[Any], kind: Any, where: str) -> Any:
    import pyarrow as pa

    if pa.types.is_time(kind):
        for value in values:
            if value is not None and (not isinstance(value, datetime.time) or value.tzinfo is not None):
                raise _Refused(f"{where}: {value!r:.200} is of type {type(value).__name__}; give datetime.time without a time zone")
        return pa.array(values, kind)
    if pa.types.is_timestamp(kind) and kind.unit == "us":
        numbers = times.timestamps if kind.tz is not None else times.wall_clocks
    elif pa.types.is_date32(kind):
        numbers = times.dates
    elif pa.types.is_duration(kind) and kind.unit == "us":
        numbers = times.spans
    else:
        raise _Refused(f"{where}: no result becomes a column of {kind}; declare another type")
    return pa.array(numbers(values), pa.int32() if pa.types.is_date32(kind) else pa.int64()).view(kind)


# ---- several values in one ----


def _lists(values: Sequence[Any], kind: Any, where: str) -> Any:
    import pyarrow as pa

    whole = _stacked(values, kind, where)
    if whole is not None:
        return whole
    as_they_are = (list, tuple)  # exactly: a Row is no list
    lists = [value if value is None or type(value) in as_they_are else _items(value, kind, where) for value in values]
    lengths = [0 if items is None else len(items) for items in lists]
    flat = list(itertools.chain.from_iterable(items for items in lists if items is not None))
    if pa.types.is_fixed_size_list(kind):
        wrong = next((n for n, items in zip(lengths, lists, strict=True) if items is not None and n != kind.list_size), None)
        if wrong is not None:
            raise _Refused(f"{where}: a list of {wrong} items, and {kind} takes {kind.list_size}")
        flat = [item for items in lists for item in ([None] * kind.list_size if items is None else items)]
        child = _build(flat, kind.value_field, f"{where}.element", dead=kind.list_size * lists.count(None))
        return _assemble(kind, len(lists), _valid(lists), None, [child])
    child = _build(flat, kind.value_field, f"{where}.element")
    return _assemble(kind, len(lists), _valid(lists), lengths, [child])


def _stacked(values: Sequence[Any], kind: Any, where: str) -> Any:
    """Arrays of numbers that differ in their first dimension at most: by copies of memory. None when they are something else."""
    import pyarrow as pa

    if not values or pa.types.is_fixed_size_list(kind) or not all(type(value) is np.ndarray and value.ndim for value in values):
        return None
    first = values[0]
    if first.dtype.kind not in "biuf" or len({(value.dtype, value.shape[1:]) for value in values}) > 1:
        return None
    child = _numbers(np.concatenate(values), kind.value_field, f"{where}.element")
    return _assemble(kind, len(values), None, [len(value) for value in values], [child])


def _items(value: Any, kind: Any, where: str) -> Sequence[Any]:
    if isinstance(value, Sequence | deque) and not isinstance(value, (str, *_BYTES)) and row_names(value) is None:
        return list(value)
    if isinstance(value, np.ndarray):
        if value.dtype.kind == "V" and value.dtype.type.__module__ == "ml_dtypes":
            return value.tolist() if value.ndim == 1 else list(value)
        return list(value) if value.ndim > 1 or value.dtype.kind in "MmV" else value.tolist()
    if type(value).__name__ == "array" and type(value).__module__ == "array":
        return value.tolist()  # type: ignore[no-any-return]
    if hasattr(value, "toArray") and hasattr(value, "__UDT__"):
        return value.toArray().tolist()  # type: ignore[no-any-return]
    if hasattr(value, "to_numpy") and hasattr(value, "iloc"):  # a Series of pandas
        return list(value)
    raise _Refused(f"{where}: {value!r:.200} is of type {type(value).__name__}, and {kind} takes lists; give [value]")


def _maps(values: Sequence[Any], kind: Any, where: str) -> Any:
    import pyarrow as pa

    pairs = [None if value is None else _pairs(value, kind, where) for value in values]
    flat = [pair for each in pairs if each is not None for pair in each]
    keys = _build([key for key, _ in flat], kind.key_field.with_nullable(False), f"{where}.key")
    items = _build([item for _, item in flat], kind.item_field, f"{where}.value")
    entries = pa.Array.from_buffers(pa.struct([kind.key_field, kind.item_field]), len(flat), [None], children=[keys, items])
    return _assemble(kind, len(pairs), _valid(pairs), [0 if each is None else len(each) for each in pairs], [entries])


def _pairs(value: Any, kind: Any, where: str) -> list[tuple[Any, Any]]:
    if isinstance(value, dict):
        return list(value.items())
    if isinstance(value, list | tuple) and all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in value):
        if len({repr(_python(key)) for key, _ in value}) < len(value):
            raise _Refused(f"{where}: {value!r:.200} has a key twice, of which a map keeps one; give each key once")
        return [(key, item) for key, item in value]
    raise _Refused(f"{where}: {value!r:.200} is of type {type(value).__name__}, and {kind} takes dicts")


def _structs(values: Sequence[Any], kind: Any, where: str) -> Any:
    fields = [kind.field(i) for i in range(kind.num_fields)]
    names = [field.name for field in fields]
    rows = [None if value is None else _parts(value, names, kind, where) for value in values]
    dead = rows.count(None)
    children = []
    for i, field in enumerate(fields):
        column = [None if row is None else row[i] for row in rows]
        children.append(_build(column, field, f"{where}.{field.name}", dead))
    return _assemble(kind, len(rows), _valid(rows), None, children)


def _parts(value: Any, names: list[str], kind: Any, where: str) -> Sequence[Any]:
    """The values of one struct, in the order of its fields."""
    if hasattr(value, "__UDT__"):  # a vector of Spark ML, or another type of users
        value = value.__UDT__.serialize(value)
    elif type(value).__module__.startswith("pyspark.sql"):
        value = _own_parts(value, names)
    if isinstance(value, np.void):
        value = named_fields(value) or value
    found = row_names(value)
    if found is not None:
        if len(set(found)) < len(found):
            raise _Refused(f"{where}: the result has a name twice: {list(found)}")
        value = dict(zip(found, value, strict=True))
    if isinstance(value, dict):
        more = [name for name in value if name not in names]
        if more:
            raise _Refused(f"{where}: the result has {more}, which {kind} does not have")
        return [value.get(name) for name in names]
    if isinstance(value, np.ndarray) and names == _VECTOR:
        return 1, None, None, value
    if isinstance(value, list | tuple):
        if len(value) != len(names):
            raise _Refused(f"{where}: the result has {len(value)} values, and {kind} has {len(names)}: {value!r:.200}")
        return value
    raise _Refused(f"{where}: {value!r:.200} is of type {type(value).__name__}, and {kind} takes dicts, Rows and tuples")


def _own_parts(value: Any, names: list[str]) -> Any:
    """Spark's own values whose columns are structs in Arrow: VARIANT, GEOMETRY, GEOGRAPHY."""
    if names == ["value", "metadata"] and hasattr(value, "metadata") and hasattr(value, "value"):
        return bytes(value.value), bytes(value.metadata)
    if names == ["srid", "wkb"] and hasattr(value, "getSrid"):
        return value.getSrid(), bytes(value.getBytes())
    return value


def _valid(values: Sequence[Any]) -> np.ndarray | None:
    """Which values are not None; None when all are."""
    return None if None not in values else np.array([value is not None for value in values])


def _assemble(kind: Any, count: int, valid: np.ndarray | None, lengths: list[int] | int | None, children: list[Any]) -> Any:
    """An array of lists, maps (``lengths`` of each, or of all) or structs from the arrays that it holds."""
    import pyarrow as pa

    buffers = [None if valid is None else pa.array(valid).buffers()[1]]
    if lengths is not None:
        large = pa.types.is_large_list(kind)
        items = lengths * count if isinstance(lengths, int) else sum(lengths)
        if items > _MAX_ITEMS and not large:
            raise _Refused(f"{items} items in the lists of one batch, and it holds {_MAX_ITEMS}; give fewer rows at once")
        offsets = np.arange(count + 1, dtype=np.int64 if large else np.int32)
        if isinstance(lengths, int):
            offsets *= lengths
        else:
            np.cumsum(lengths, out=offsets[1:])
        buffers.append(pa.py_buffer(offsets))
    return pa.Array.from_buffers(kind, count, buffers, children=children)


# ---- arrays of numbers ----


def from_numbers(values: np.ndarray, field: Any) -> Any:
    """An array of numbers, its first dimension that of the rows, as one column on memory of its own.

    Raises
    ------
    SchemaMismatch
        The shape is not that of the type, or a number is none that the type holds.
    """
    import pyarrow as pa

    try:
        return _numbers(values, field, field.name)
    except (_Refused, pa.ArrowException) as error:
        raise refused(field, str(error)) from error


def _numbers(values: np.ndarray, field: Any, where: str) -> Any:
    import pyarrow as pa

    kind = field.type
    levels = []
    for length in values.shape[1:]:
        if pa.types.is_struct(kind) or pa.types.is_map(kind):
            break
        shape = list(values.shape[1:])
        if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
            hint = f"; give results[{', '.join([':'] + ['0'] * len(shape))}]" if set(shape) == {1} else ""
            raise _Refused(f"{where}: the results are arrays of shape {shape}, the schema says {field.type}{hint}")
        if pa.types.is_fixed_size_list(kind) and kind.list_size != length:
            raise _Refused(f"{where}: the results are arrays of shape {shape}")
        levels.append((kind, length))
        kind = kind.value_type
    if values.dtype.kind == "V":  # bfloat16; float32 holds all its values
        values = values.astype(np.float32)
    if values.dtype.kind not in "biuf" or pa.types.is_nested(kind) or pa.types.is_decimal(kind):
        vector = pa.types.is_struct(kind) and values.ndim > 1 and [each.name for each in kind] == _VECTOR
        return _build(list(values) if vector else values.tolist(), field, where)
    flat = _cast(values.reshape(-1), kind)
    for depth, (level, length) in reversed(list(enumerate(levels))):
        lists = int(np.prod(values.shape[: depth + 1], dtype=np.int64))
        lengths = None if pa.types.is_fixed_size_list(level) else length
        flat = _assemble(level, lists, None, lengths, [flat])
    return flat


def _cast(flat: np.ndarray, kind: Any) -> Any:
    import pyarrow as pa

    boolean = pa.types.is_boolean(kind)
    if pa.types.is_temporal(kind) and not pa.types.is_time(kind) and flat.dtype.kind in "iu":  # as column mode has them
        stored = pa.int32() if pa.types.is_date32(kind) else pa.int64()
        return _cast(flat, stored).view(kind)
    if not (boolean or pa.types.is_integer(kind) or pa.types.is_floating(kind)) or boolean != (flat.dtype.kind == "b"):
        raise _Refused(f"the results are {flat.dtype.name}; {_WAYS.get(str(kind), 'give values of the declared type')}")
    target = np.dtype(kind.to_pandas_dtype())
    if flat.dtype == target:
        return pa.array(flat.copy(), kind)  # Arrow aliases this copy; booleans are packed into bits
    if flat.dtype.kind == "f" and target.kind == "f":
        with np.errstate(over="ignore"):
            cast = flat.astype(target)
        if target.itemsize < flat.dtype.itemsize:
            outside = np.isinf(cast) & ~np.isinf(flat)
            if outside.any():
                raise _Refused(f"{flat[outside][0]!r} is out of the range of {kind}; declare double")
        return pa.array(cast, kind)
    if target.kind in "iu" and np.can_cast(flat.dtype, target, "safe"):
        return pa.array(flat.astype(target), kind)
    return pa.array(flat.copy()).cast(kind)  # sees whether every value fits


_WAYS: dict[str, str] = {
    "bool": "compare, or give .astype(bool)",
    "string": "give text, or declare a number",
    "binary": "give .tobytes() of each row, or declare an array",
}
