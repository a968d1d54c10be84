"""The schema of a feed, found in its rows. See ``columns.py`` for the two modes."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfos_fast.channel.schema.columns import MAX_DIMS, OBJECT_ROWS, Column, Schema
from tfos_fast.errors import SchemaMismatch
from tfos_fast.values import nested as _nested
from tfos_fast.values.dtypes import INT64_MAX, INT64_MIN, LEAVES, are_names, encodable, is_packable, is_spark_row, row_names
from tfos_fast.values.special import is_missing

# Row mode: a longer list or tuple of numbers of one type is one column, not one per number; the reader cannot tell.
WIDE = 16
# Row mode: a longer list or tuple of mixed things is one object: thousands of columns cost more than they bring.
WIDEST = 1024


def infer(row: Any, *, exact: bool) -> Schema:
    """Find the schema that fits one row.

    Parameters
    ----------
    row : object
        A tuple or list gives the columns ``c0, c1, ...``; a dict with string keys, a pyspark Row and (in column mode) a
        named tuple give columns of their names; anything else is one bare column ``c0``.
    exact : bool
        True for row mode, False for column mode.

    Returns
    -------
    Schema

    Raises
    ------
    SchemaMismatch
        In column mode, when two columns of the row have the same name.
    """
    return _infer_exact(row) if exact else _infer_columns(row)


def _infer_exact(row: Any) -> Schema:
    kind = type(row)
    if kind is tuple or kind is list:
        if len(row) > WIDE:
            nested = _exact_nested("c0", row)
            if nested is not None:
                return Schema("bare", (nested,))
            if len(row) > WIDEST:
                return OBJECT_ROWS
        columns = tuple(_exact_column(f"c{i}", value) for i, value in enumerate(row))
        return Schema("tuple" if kind is tuple else "list", columns)
    if kind is dict and are_names(row):
        return Schema("dict", tuple(_exact_column(name, value) for name, value in row.items()))
    if is_spark_row(row):
        names = row_names(row)
        if names is not None:
            return Schema("row", tuple(map(_exact_column, names, row)))
    return Schema("bare", (_exact_column("c0", row),))


def _infer_columns(row: Any) -> Schema:
    names = row_names(row)
    if names is not None:
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise duplicates(twice)
        return Schema("row", tuple(map(_column, names, row)))
    if isinstance(row, (tuple, list)):
        return Schema("tuple", tuple(_column(f"c{i}", value) for i, value in enumerate(row)))
    if isinstance(row, dict) and are_names(row):
        return Schema("dict", tuple(_column(name, value) for name, value in row.items()))
    return Schema("bare", (_column("c0", row),))


def duplicates(names: list[str]) -> SchemaMismatch:
    """Make the error for columns of one name, which a dict of arrays cannot hold."""
    return SchemaMismatch(f"several columns are called {', '.join(map(repr, names))}; give each a name of its own")


def _exact_column(name: str, value: Any) -> Column:
    """Row mode: the column from which exactly this value comes back. A subclass (np.float64!) is an object."""
    kind = type(value)
    if kind is float or kind is bool or (kind is int and INT64_MIN <= value <= INT64_MAX):
        return Column(name, "fixed", LEAVES[kind], (), kind.__name__)
    if kind is str and encodable(value):
        return Column(name, "string")
    if kind is bytes:
        return Column(name, "bytes")
    if kind is bytearray:
        return Column(name, "bytes", python="bytearray")
    if kind is np.ndarray and is_packable(value.dtype) and value.dtype.isnative:
        return Column(name, "fixed", value.dtype.name, value.shape, "ndarray")
    if isinstance(value, np.generic) and value.dtype.kind in "biufc" and is_packable(value.dtype):
        if kind is not np.dtype(value.dtype.name).type:  # np.longlong is not np.int64
            return Column(name, "object")
        return Column(name, "fixed", value.dtype.name, (), "npscalar")
    if kind is list or kind is tuple:
        nested = _exact_nested(name, value)
        if nested is not None:
            return nested
    return Column(name, "object")


def _exact_nested(name: str, value: Any) -> Column | None:
    shape: list[int] = []
    levels: list[type] = []
    inner: Any = value
    while type(inner) is list or type(inner) is tuple:
        if len(shape) == MAX_DIMS:
            return None
        shape.append(len(inner))
        levels.append(type(inner))
        if not inner:
            inner = 0.0  # nothing inside: any type of number does
            break
        inner = inner[0]
    leaf = type(inner)
    if leaf not in LEAVES or not _is_regular(value, levels, shape, 0, leaf):
        return None
    tag = "/".join(kind.__name__ for kind in [*levels, leaf])
    return Column(name, "fixed", LEAVES[leaf], tuple(shape), tag)


def _is_regular(value: Any, levels: list[Any], shape: list[int], depth: int, leaf: Any) -> bool:
    if depth == len(shape):
        return type(value) is leaf and (leaf is not int or INT64_MIN <= value <= INT64_MAX)
    if type(value) is not levels[depth] or len(value) != shape[depth]:
        return False
    return all(_is_regular(item, levels, shape, depth + 1, leaf) for item in value)


def _column(name: str, value: Any) -> Column:
    if value is None:
        return Column(name, "null", nulls="seen")
    if isinstance(value, str):
        return Column(name, "string" if encodable(value) else "object")
    if isinstance(value, (bytes, bytearray)):
        return Column(name, "bytes")
    if is_missing(value):
        return Column(name, "null", nulls="seen")
    try:
        form = _nested.measure(value)
    except SchemaMismatch:
        return Column(name, "object", unit="beyond")
    return Column(name, "object") if form is None else nested_column(name, *form)


def nested_column(name: str, dtype: str, shape: tuple[int, ...]) -> Column:
    """The column for lists of this element type and these lengths. Lists of text are ragged, even where they are of one length."""
    dtype, _, unit = dtype.partition("@")
    if dtype in _nested.TEXTS:
        return Column(name, "ragged", dtype, (_nested.ANY_LENGTH,) * len(shape))
    if _nested.ANY_LENGTH in shape:
        unit = unit or ("?" if 0 in shape else "")  # no list has an item
        return Column(name, "ragged", dtype, _nested.ragged(shape), unit=unit)  # type: ignore[arg-type]
    return Column(name, "fixed", dtype, shape, unit=unit)  # type: ignore[arg-type]
