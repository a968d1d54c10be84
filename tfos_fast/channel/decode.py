"""A slot's rows for its reader: arrays that alias it (column mode) or the rows as they were fed (row mode)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tfos_fast import _unpack
from tfos_fast._convert import cast_values
from tfos_fast.channel.layout import Layout
from tfos_fast.channel.schema import Column, Schema, describe
from tfos_fast.errors import MissingDependency, SchemaMismatch


def columns(layout: Layout, buffer: Any, start: int, stop: int) -> dict[str, np.ndarray]:
    """Give rows of a slot as arrays. Fixed columns are not copied.

    Parameters
    ----------
    layout : Layout
        The slot's layout.
    buffer : buffer
        The slot. The arrays of fixed columns alias it, and hold an export of it until the last of them is gone.
    start, stop : int
        Rows.

    Returns
    -------
    dict of str to numpy.ndarray
        Fixed columns: shape ``(stop - start, *column.shape)``, read-only when the buffer is. Others: new
        one-dimensional object arrays of ``str``, ``bytes`` or whatever was pickled.

    Raises
    ------
    ValueError
        When the rows are not in the slot or the slot is damaged.
    """
    slot = _slot(layout, buffer, start, stop)
    out = {}
    for index, column in enumerate(layout.schema.columns):
        if column.kind == "fixed":
            out[column.name] = _fixed(layout, slot, index, start, stop)
        else:
            out[column.name] = _objects(_heap(layout, slot, index, start, stop))
    return out


def rows(layout: Layout, buffer: Any, start: int, stop: int) -> list[Any]:
    """Give rows of a slot as they were fed: equal, and of the same Python types. Everything is copied.

    Parameters
    ----------
    layout : Layout
        The slot's layout, with a schema of row mode.
    buffer : buffer
        The slot.
    start, stop : int
        Rows.

    Returns
    -------
    list
        One entry per row.

    Raises
    ------
    MissingDependency
        When the rows are pyspark Rows and pyspark is not installed here.
    ValueError
        When the rows are not in the slot or the slot is damaged.
    """
    slot = _slot(layout, buffer, start, stop)
    schema = layout.schema
    values = [_values(layout, slot, index, start, stop) for index in range(len(schema.columns))]
    if schema.structure == "bare":
        return values[0]
    if schema.structure == "row":
        return _unpack.make_rows(_row_type(), list(schema.names), values) if values else _empty(_row_type(), stop - start)
    if not values:
        return [{"tuple": tuple, "list": list, "dict": dict}[schema.structure]() for _ in range(stop - start)]
    if schema.structure == "tuple":
        return list(zip(*values, strict=True))
    if schema.structure == "list":
        return [list(row) for row in zip(*values, strict=True)]
    return _unpack.make_dicts(schema.names, values)


def convert(batch: dict[str, np.ndarray], src: Schema, dst: Schema) -> dict[str, np.ndarray]:
    """Widen a batch of an older schema to a newer one that :func:`tfos_fast.channel.schema.join` made from it.

    Columns that stay as they are come back themselves; others are copied. Numbers that become objects are Python
    numbers when they are scalars, arrays of their own otherwise.

    Raises
    ------
    SchemaMismatch
        When the second schema does not hold the first.
    """
    if src == dst:
        return batch
    if sorted(src.names) != sorted(dst.names):
        raise SchemaMismatch(f"columns {', '.join(src.names)} cannot become {', '.join(dst.names)}")
    older = {column.name: column for column in src.columns}
    return {column.name: _widen(batch[column.name], older[column.name], column) for column in dst.columns}


def _widen(values: np.ndarray, src: Column, dst: Column) -> np.ndarray:
    if src.kind == dst.kind and src.dtype == dst.dtype and src.shape == dst.shape:
        return values
    if dst.kind == "object":
        if src.kind != "fixed":
            return values.copy()
        return _objects(values.tolist() if src.shape == () else [value.copy() for value in values])
    if src.kind == "fixed" and dst.kind == "fixed" and src.shape == dst.shape:
        widened = cast_values(values, dst.dtype, cast=True)
        if widened is not None:
            return widened
    raise SchemaMismatch(f"column {src.name!r} of {describe(src)} cannot become {describe(dst)}")


def _slot(layout: Layout, buffer: Any, start: int, stop: int) -> np.ndarray:
    if not 0 <= start <= stop <= layout.capacity:
        raise ValueError(f"rows {start} to {stop} are not in a slot of {layout.capacity}")
    # numpy keeps a memoryview of the buffer as the base: the exporter sees when the last array is gone.
    slot = np.frombuffer(buffer, np.uint8)
    if slot.nbytes < layout.slot_bytes:
        raise ValueError(f"the buffer has {slot.nbytes} bytes, the layout needs {layout.slot_bytes}")
    return slot


def _fixed(layout: Layout, slot: np.ndarray, index: int, start: int, stop: int) -> np.ndarray:
    column = layout.schema.columns[index]
    dtype = np.dtype(column.dtype)
    shape = (stop - start, *column.shape)
    size = dtype.itemsize
    for length in column.shape:
        size *= length
    offset = layout.offsets[index]
    return slot[offset + start * size : offset + stop * size].view(dtype).reshape(shape)


def _heap(layout: Layout, slot: np.ndarray, index: int, start: int, stop: int) -> list[Any]:
    column = layout.schema.columns[index]
    return _unpack.heap_values(slot, layout.slot_bytes, layout.offsets[index], start, stop, column.python or column.kind)


def _objects(values: list[Any]) -> np.ndarray:
    # np.array(values, dtype=object) would look inside sequences.
    out = np.empty(len(values), dtype=object)
    out[:] = values
    return out


def _values(layout: Layout, slot: np.ndarray, index: int, start: int, stop: int) -> list[Any]:
    """One column's values as they were fed."""
    column = layout.schema.columns[index]
    if column.kind != "fixed":
        return _heap(layout, slot, index, start, stop)
    array = _fixed(layout, slot, index, start, stop)
    if column.python == "ndarray":
        # A copy for each row: a program that keeps one row must not keep its neighbours.
        if column.shape:
            return [value.copy() for value in array]
        return [np.array(value) for value in array]  # arrays without dimensions
    if column.python == "npscalar":
        return list(array)
    values = array.tolist()
    levels = tuple(level == "tuple" for level in column.python.split("/")[:-1])
    return _unpack.with_tuples(values, levels) if True in levels else values


def _empty(kind: Callable[[], Any], count: int) -> list[Any]:
    return [kind() for _ in range(count)]


def _row_type() -> Any:
    try:
        from pyspark.sql.types import Row
    except ImportError as error:
        raise MissingDependency("these rows are pyspark Rows: install pyspark here, too") from error
    return Row
