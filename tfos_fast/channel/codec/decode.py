"""A slot's rows for its reader: arrays that alias it (column mode) or the rows as they were fed (row mode)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from tfos_fast.channel.codec.layout import Layout, layout
from tfos_fast.channel.schema.columns import Column, Schema, describe
from tfos_fast.channel.schema.kinds import way_of
from tfos_fast.channel.schema.struct_fields import aligned
from tfos_fast.errors import MissingDependency, RowTooLarge, SchemaMismatch
from tfos_fast.native import ragged_decoder, row_decoder
from tfos_fast.native.column_writer import with_type
from tfos_fast.native.row_packer import FULL, MISFIT, RowPacker
from tfos_fast.values import nested
from tfos_fast.values.aligned import ALIGNMENT, Values, aligned_empty
from tfos_fast.values.dtypes import cast_values, dtype_of, fill_bytes, plain_fill
from tfos_fast.values.ragged import Ragged, deepen, from_array


def columns(layout: Layout, buffer: Any, start: int, stop: int) -> dict[str, Values]:
    """Give rows of a slot as arrays. Fixed columns and masks are not copied.

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
    dict of str to numpy.ndarray or Ragged
        Fixed columns: shape ``(stop - start, *column.shape)``, read-only when the buffer is. Ragged columns: a new
        :class:`~tfos_fast.values.ragged.Ragged`. Others: new one-dimensional object arrays of ``str``, ``bytes`` or whatever
        was pickled. A column's mask follows it: bools, True where the row has a value.

    Raises
    ------
    ValueError
        When the rows are not in the slot or the slot is damaged.
    """
    slot = _slot(layout, buffer, start, stop)
    out: dict[str, Values] = {}
    for index, column in enumerate(layout.schema.columns):
        way = _known(column, way_of(column).arrays, "column")
        if way == "unused":
            continue
        if way == "array":
            out[column.name] = _fixed(layout, slot, index, start, stop)
        elif way == "ragged":
            out[column.name] = _lists(layout, slot, index, start, stop)
        elif way == "null":
            out[column.name] = np.full(stop - start, None, object)
        else:
            out[column.name] = _objects(_heap(layout, slot, index, start, stop, way))
        if column.mask:
            mask = layout.masks[index]
            out[column.mask] = slot[mask + start : mask + stop].view(np.bool_)
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
        return row_decoder.make_rows(_row_type(), list(schema.names), values) if values else _empty(_row_type(), stop - start)
    if not values:
        return [{"tuple": tuple, "list": list, "dict": dict}[schema.structure]() for _ in range(stop - start)]
    if schema.structure == "tuple":
        return list(zip(*values, strict=True))
    if schema.structure == "list":
        return [list(row) for row in zip(*values, strict=True)]
    return row_decoder.make_dicts(schema.names, values)


def column_values(layout: Layout, buffer: Any, index: int, start: int, stop: int) -> list[Any]:
    """Give one column's values of rows of a slot, as ``rows`` does."""
    return _values(layout, _slot(layout, buffer, start, stop), index, start, stop)


def read_heap(layout: Layout, buffer: Any, index: int, start: int, stop: int) -> None:
    """Decode one column's text, bytes or lists and drop them: a damaged slot raises what ``columns`` and ``rows`` would.

    Raises
    ------
    ValueError
    """
    slot = _slot(layout, buffer, start, stop)
    column = layout.schema.columns[index]
    if column.kind != "ragged":
        _heap(layout, slot, index, start, stop, column.kind)
    elif not _is_flat(column):
        _lists(layout, slot, index, start, stop)
    else:
        _sizes(layout, slot, index, start, stop)


def convert(batch: dict[str, Values], src: Schema, dst: Schema, rows: int | None = None) -> dict[str, Values]:
    """Widen a batch of an older schema to a newer one that :func:`tfos_fast.channel.schema.widen.join` made from it.

    Columns that stay as they are come back themselves; others are copied. Numbers that become objects are Python
    numbers when they are scalars, arrays of their own otherwise.

    ``rows``: how many the batch has, which may have no column.

    Raises
    ------
    SchemaMismatch
        When the second schema does not hold the first.
    """
    if src == dst:
        return batch
    if rows is None:
        rows = len(next(iter(batch.values()))) if batch else 0
    older = {column.name: column for column in aligned(src, dst)[0].columns}
    # A field that only a policy for nulls names is a column as long as rows have nothing but None in the struct's place.
    gone = [name for name in older if name not in dst.names]
    if any(older[name].kind != "null" for name in gone) or not older.keys() >= set(dst.names):
        raise SchemaMismatch(f"columns {', '.join(src.names)} cannot become {', '.join(dst.names)}")
    out: dict[str, Values] = {}
    for column in dst.columns:
        if column.kind == "unused":
            continue
        before = older[column.name]
        if column.name not in batch and before.kind == "null":  # a field that no row of the batch has
            out[column.name] = _filled(column, rows)
            if column.mask:
                out[column.mask] = np.zeros(rows, np.bool_)
            continue
        values, mask = batch[column.name], batch[before.mask] if before.mask else None
        if before.kind == "object" and column.kind != "object":  # None had no policy when it was packed
            out.update(_packed(values, column))
            continue
        out[column.name] = _widen(values, mask, before, column)
        if column.mask:
            out[column.mask] = np.full(len(values), before.kind != "null") if mask is None else mask
    return out


def _widen(values: Values, mask: Any, src: Column, dst: Column) -> Values:
    """``mask``: which rows have a value, where the column says it; what stands for None in the others is not widened."""
    if src.kind == dst.kind and src.dtype == dst.dtype and src.shape == dst.shape:
        return values
    widened: Values | None = None
    if src.kind == "null":
        return _filled(dst, len(values))
    if src.nulls in ("fill", "mask") and not src.shape and dst.shape and dst.python != "bytes":
        return _filled(dst, len(values))  # single values never become lists: these were all None, and a spec had told no shape
    _check_fill(values, src, dst)
    if dst.kind == "object":
        if src.kind == "fixed":
            objects = _objects(values.tolist() if src.shape == () else [value.copy() for value in values])
        else:
            objects = _objects(values.tolist()) if isinstance(values, Ragged) else values.copy()
        if mask is not None:
            objects[~mask] = None
        if dst.unit == "number" and src.dtype != dst.dtype:  # an integer among floats is one, beside None as well
            objects[:] = [with_type(value, dst) for value in objects]
        return objects
    if isinstance(values, np.ndarray) and dst.kind == "ragged" and values.size == 0 and len(src.shape) <= len(dst.shape):
        # Lists without items: of any type and depth.
        kind = object if dst.dtype in nested.TEXTS else dtype_of(dst.dtype)
        shape = (*src.shape, *(0 if length < 0 else length for length in dst.shape[len(src.shape) :]))
        return _lists_of(np.empty((len(values), *shape), kind), mask, dst)
    if isinstance(values, np.ndarray) and dst.kind == "fixed" and 0 in src.shape and 0 in dst.shape:
        return np.empty((len(values), *dst.shape), dtype_of(dst.dtype))
    if src.kind == "bytes" and dst.python == "bytes" and {len(value) for value in values} <= {dst.row_bytes}:
        return np.frombuffer(bytearray(b"".join(values)), dtype_of(dst.dtype)).reshape(len(values), *dst.shape)
    comparable = len(src.shape) == len(dst.shape)
    if isinstance(values, np.ndarray) and src.kind == "fixed" and dst.kind in ("fixed", "ragged") and comparable:
        numbers = None if dst.dtype in nested.TEXTS else cast_values(values, dst.dtype, cast=True)
        if numbers is not None and dst.kind == "ragged":
            widened = _lists_of(numbers, mask, dst)
        elif src.shape == dst.shape:
            widened = numbers
    elif isinstance(values, Ragged) and dst.kind == "ragged" and (comparable or values.values.size == 0):
        if values.values.size == 0:  # lists without items may be of deeper ones
            kind = np.dtype(object) if dst.dtype in nested.TEXTS else dtype_of(dst.dtype)
            deeper = [np.zeros(1, np.int64)] * max(0, dst.ragged_dims - len(values.splits))
            inner = dst.shape[max(dst.ragged_dims, len(values.splits)) :]
            cast: Ragged | None = Ragged(np.empty((0, *inner), kind), [*values.splits, *deeper])
        else:
            cast = values if src.dtype == dst.dtype else values.cast(dst.dtype)
        widened = None if cast is None else deepen(cast, dst.ragged_dims)
    if widened is None:
        raise SchemaMismatch(f"column {src.name!r} of {describe(src)} cannot become {describe(dst)}")
    return widened


def _check_fill(values: Values, src: Column, dst: Column) -> None:
    """Refuse rows that may have been None, where the wider column has another value for it: one that was fed looks the same."""
    if src.nulls != "fill" or dst.nulls != "fill" or not len(values):
        return
    before, after = _filled(src, 1), _filled(dst, 1)
    if not (isinstance(values, np.ndarray) and isinstance(before, np.ndarray) and isinstance(after, np.ndarray)):
        return
    (was,), (will,) = before.tolist(), after.tolist()
    if dst.kind == "object":
        unchanged = not src.shape and (was == will or was != was)
    else:
        unchanged = before.shape != after.shape or bool(_equal(before.astype(after.dtype), after).all())
    if not unchanged and _equal(values, before[0]).reshape(len(values), -1).all(1).any():
        raise SchemaMismatch(
            f"column {src.name!r}: {was!r} stood for None while the rows had {describe(src)}, and {will!r} does now that they need "
            f"{describe(dst)}; declare the column in the spec, or feed values of one kind"
        )


def _equal(values: Any, one: Any) -> Any:
    """As ``==``, and a NaN equals a NaN."""
    return np.asarray((values == one) | ((values != values) & (one != one)))


def _packed(values: Any, column: Column) -> dict[str, Values]:
    """Objects, most of which are numbers and None, as a column of another kind, with its mask."""
    plain = msgspec.structs.replace(column, unit="")  # the numbers of times and dates are plain ones by now
    schema = Schema("bare", (plain,))
    heap = 64 * len(values)
    while True:
        where = layout(schema, len(values), 3 * ALIGNMENT + len(values) * (plain.row_bytes + 1) + heap)
        memory = aligned_empty((where.slot_bytes,), np.dtype(np.uint8))
        packer = RowPacker(schema, exact=False, cast=True)
        packer.bind(memory, where)
        try:
            event = packer.pack_from(iter(values), math.inf)
        except RowTooLarge:
            event = FULL
        packer.unbind()
        if event == MISFIT:
            raise SchemaMismatch(
                f"column {column.name!r}: None was packed before nulls= was declared, together with values that are not "
                f"{describe(plain)}; let the reader declare nulls= before the first row is written (Channel.create(form=None))"
            )
        if packer.rows == len(values):
            return columns(where, memory, 0, packer.rows)
        heap *= 4


def _lists_of(array: np.ndarray, mask: Any, column: Column) -> Ragged:
    """An array's rows as those of a ragged column: lists without items where there is no value."""
    if mask is None or mask.all():
        return from_array(array, column.ragged_dims)
    whole = from_array(array[mask], column.ragged_dims)
    return Ragged(whole.values, [nested.splits_of(np.where(mask, array.shape[1], 0)), *whole.splits[1:]])


def _filled(column: Column, rows: int) -> Values:
    """Rows of nothing but nulls."""
    if column.kind == "object":
        return np.full(rows, plain_fill(column.fill) if column.nulls == "fill" else None, object)
    fill = fill_bytes(column.kind, column.dtype, column.shape, column.fill)
    if column.kind == "fixed":
        one = np.frombuffer(fill, dtype_of(column.dtype)).reshape(column.shape)
        values: np.ndarray = np.broadcast_to(one, (rows, *column.shape)).copy()
        return values
    if column.kind == "ragged":
        kind = object if column.dtype in nested.TEXTS else dtype_of(column.dtype)
        depth = column.ragged_dims
        return Ragged(
            np.empty((0, *column.shape[depth:]), kind), [np.zeros(rows + 1 if i == 0 else 1, np.int64) for i in range(depth)]
        )
    return np.full(rows, fill.decode() if column.kind == "string" else fill, object)


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
    dtype = dtype_of(column.dtype)
    shape = (stop - start, *column.shape)
    size = dtype.itemsize
    for length in column.shape:
        size *= length
    offset = layout.offsets[index]
    return slot[offset + start * size : offset + stop * size].view(dtype).reshape(shape)


def _heap(layout: Layout, slot: np.ndarray, index: int, start: int, stop: int, way: str) -> list[Any]:
    return row_decoder.heap_values(slot, layout.slot_bytes, layout.offsets[index], start, stop, way)


def _known(column: Column, way: str | None, mode: str) -> str:
    if way is None:
        raise SchemaMismatch(f"column {column.name!r}: {mode} mode has no columns of {describe(column)}")
    return way


def _is_flat(column: Column) -> bool:
    """Whether a row of a ragged column is nothing but its numbers."""
    return column.ragged_dims == 1 and column.dtype not in nested.TEXTS


def _sizes(layout: Layout, slot: np.ndarray, index: int, start: int, stop: int) -> np.ndarray:
    column = layout.schema.columns[index]
    item_bytes = dtype_of(column.dtype).itemsize * math.prod(column.shape[column.ragged_dims :])
    return ragged_decoder.sizes(slot, layout.slot_bytes, layout.offsets[index], start, stop, item_bytes)


def _lists(layout: Layout, slot: np.ndarray, index: int, start: int, stop: int) -> Ragged:
    column = layout.schema.columns[index]
    offset = layout.offsets[index]
    if not _is_flat(column):
        rows = row_decoder.heap_values(slot, layout.slot_bytes, offset, start, stop, "bytes")
        return Ragged(*nested.decode(rows, column.dtype, column.shape))
    splits = _sizes(layout, slot, index, start, stop)
    values = aligned_empty((int(splits[-1]), *column.shape[column.ragged_dims :]), dtype_of(column.dtype))
    ragged_decoder.gather(slot, layout.slot_bytes, offset, start, stop, values.reshape(-1).view(np.uint8))
    return Ragged(values, [splits])


def _objects(values: list[Any]) -> np.ndarray:
    # np.array(values, dtype=object) would look inside sequences.
    out = np.empty(len(values), dtype=object)
    out[:] = values
    return out


def _values(layout: Layout, slot: np.ndarray, index: int, start: int, stop: int) -> list[Any]:
    """One column's values as they were fed."""
    column = layout.schema.columns[index]
    way = _known(column, way_of(column).rows, "row")
    if way == "null":
        return [None] * (stop - start)
    if column.kind != "fixed":
        return _heap(layout, slot, index, start, stop, way)
    array = _fixed(layout, slot, index, start, stop)
    if way == "ndarray":
        # A copy for each row: a program that keeps one row must not keep its neighbours.
        if column.shape:
            return [value.copy() for value in array]
        return [np.array(value) for value in array]  # arrays without dimensions
    if way == "npscalar":
        return list(array)
    values = array.tolist()
    levels = tuple(level == "tuple" for level in column.python.split("/")[:-1])
    return row_decoder.with_tuples(values, levels) if True in levels else values


def _empty(kind: Callable[[], Any], count: int) -> list[Any]:
    return [kind() for _ in range(count)]


def _row_type() -> Any:
    try:
        from pyspark.sql.types import Row
    except ImportError as error:
        raise MissingDependency("these rows are pyspark Rows: install pyspark here, too") from error
    return Row
