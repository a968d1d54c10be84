"""Arrow batches into slots. Values are copied once, from Arrow's buffers to the slot, without making Python objects.

What has no column of its own becomes an *object* column of the Python values that ``DataFrame.collect()`` gives: in row mode
nulls, lists of different lengths, dates, structs; column mode has columns for these (see ``flatten.py``).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tfos_fast.channel.arrow import spark_types
from tfos_fast.channel.arrow.plain import bare_type, by_type, decoded, is_list
from tfos_fast.channel.arrow.ragged import check_text, encoded_lists, no_text, numbers_of, text_spans
from tfos_fast.channel.arrow.to_python import collects_bytearrays, python_values
from tfos_fast.channel.codec.layout import Layout
from tfos_fast.channel.codec.layout import layout as lay_out
from tfos_fast.channel.schema.columns import ANY_LENGTH, NO_PLACE, Column, Schema, describe, expected
from tfos_fast.channel.schema.detect import duplicates, nested_column
from tfos_fast.channel.schema.explain import concerned, hole
from tfos_fast.errors import MissingDependency, RowTooLarge, SchemaMismatch
from tfos_fast.native.column_writer import dumps
from tfos_fast.native.nt_copy import copy
from tfos_fast.values import nested
from tfos_fast.values.dtypes import DTYPES, dtype_of, fill_bytes, plain_fill, values_fit

if TYPE_CHECKING:
    import pyarrow as pa

_PYTHON = {"f": "float", "i": "int", "u": "int", "b": "bool"}


def _arrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise MissingDependency("Arrow batches need pyarrow: pip install pyarrow") from error
    return pyarrow


def from_arrow(pa_schema: pa.Schema, first_batch: pa.RecordBatch, *, exact: bool) -> Schema:
    """Find the schema that fits a batch. It costs little enough to be asked for every batch.

    Parameters
    ----------
    pa_schema : pyarrow.Schema
        Names and types of the columns.
    first_batch : pyarrow.RecordBatch
        Says which columns have nulls and how long lists are. For column mode it went through
        :func:`tfos_fast.channel.arrow.flatten.flatten_batch`.
    exact : bool
        True for row mode: rows come back as pyspark Rows with the values of ``DataFrame.collect()``.

    Returns
    -------
    Schema
        Of structure ``"row"``.

    Raises
    ------
    SchemaMismatch
        In column mode, when two columns have the same name.
    """
    names = pa_schema.names
    if not exact and len(set(names)) < len(names):
        raise duplicates(sorted({name for name in names if names.count(name) > 1}))
    told = spark_types.nodes(pa_schema) if exact else ()  # column mode has told them apart by now
    columns = [_column(name, first_batch.column(i), exact) for i, name in enumerate(names)]
    if told:
        columns = [c if node is None else Column(c.name, "object") for c, node in zip(columns, told, strict=True)]
    return Schema("row", tuple(columns))


def pack_batch(
    layout: Layout,
    buffer: Any,
    rows_already: int,
    heap_used: int,
    batch: pa.RecordBatch,
    start: int,
    *,
    exact: bool,
    found: Schema | None = None,
) -> tuple[int, int]:
    """Copy rows of a batch into a slot, as many as it has room for.

    Parameters
    ----------
    layout : Layout
        The slot's layout; its schema holds that of the batch (see :func:`tfos_fast.channel.schema.widen.join`).
    buffer : writable buffer
        The slot.
    rows_already, heap_used : int
        Rows and heap bytes that are in it.
    batch : pyarrow.RecordBatch
    start : int
        The first row to copy.
    exact : bool
        True for row mode.
    found : Schema, optional
        What :func:`from_arrow` says of this batch: columns that are as the slot has them are not looked through again.

    Returns
    -------
    (int, int)
        Rows copied, and the heap bytes that are used now. No rows when not one more fits; if the slot is empty, lay it out
        with more heap then (its layout's ``roomier()``).

    Raises
    ------
    RowTooLarge
        When the next row does not fit a slot of its own.
    SchemaMismatch
        When the batch does not fit the schema.
    """
    schema = layout.schema
    if list(schema.names) != batch.schema.names:
        raise SchemaMismatch(f"a batch has the columns {batch.schema.names}, the feed has {list(schema.names)}")
    count = min(layout.capacity - rows_already, batch.num_rows - start)
    if batch.num_rows == start:
        return 0, heap_used
    arrays = [batch.column(i).slice(start, max(count, 1)) for i in range(len(schema.columns))]
    arrays = [array if c.kind in ("unused", "object") else decoded(array) for c, array in zip(schema.columns, arrays, strict=True)]
    told = spark_types.nodes(batch.schema)
    if count:
        known = schema.columns if found is None else found.columns
        for column, array, seen in zip(schema.columns, arrays, known, strict=True):
            if found is None or seen != column:
                _check(column, array, exact)
    room = layout.slot_bytes - layout.heap - heap_used
    heaps = {
        i: _heap_values(column, array, room, told[i] if told else None)
        for i, (column, array) in enumerate(zip(schema.columns, arrays, strict=True))
        if column.in_heap
    }
    if heaps:
        # ends[k]: heap bytes of the first k rows, over all columns.
        ends = np.zeros(min([max(count, 0), *(len(offsets) - 1 for offsets, _ in heaps.values())]) + 1, dtype=np.int64)
        for offsets, _ in heaps.values():
            ends += offsets[: len(ends)]
        count = int(np.searchsorted(ends, room, side="right")) - 1
    if count <= 0:
        if rows_already == 0:
            _check_size(layout, heaps)
        return 0, heap_used
    slot = np.frombuffer(buffer, np.uint8)
    if slot.nbytes < layout.slot_bytes:
        raise ValueError(f"the buffer has {slot.nbytes} bytes, the layout needs {layout.slot_bytes}")
    top = layout.heap + heap_used
    for i, column in enumerate(schema.columns):
        size = column.row_bytes
        first = layout.offsets[i] + rows_already * size
        region = slot[first : first + count * size]
        if layout.masks[i] >= 0:
            mask = layout.masks[i] + rows_already
            slot[mask : mask + count] = np.asarray(arrays[i].slice(0, count).is_valid())
        if column.kind == "fixed":
            _copy_fixed(column, region.view(dtype_of(column.dtype)).reshape(count, *column.shape), arrays[i].slice(0, count))
            continue
        if column.kind in NO_PLACE:
            continue
        offsets, data = heaps[i]
        entries = region.view(np.uint32).reshape(count, 2)
        entries[:, 0] = top + offsets[:count]
        entries[:, 1] = np.diff(offsets[: count + 1])
        end = top + int(offsets[count])
        slot[top:end] = data[: end - top]
        top = end
    return count, top - layout.heap


def is_fitting(schema: Schema, batch: pa.RecordBatch, *, exact: bool) -> bool:
    """Whether the batch's values can be written into columns of this schema."""
    told = spark_types.nodes(batch.schema)
    try:
        for i, column in enumerate(schema.columns):
            _check(column, batch.column(i), exact)
            if column.kind == "object":
                _heap_values(column, batch.column(i), batch.nbytes << 8, told[i] if told else None)
    except SchemaMismatch:
        return False
    return True


def first_misfit(batch: pa.RecordBatch, start: int, fits: Callable[[Any], bool]) -> int:
    """How many rows from ``start`` on fit together, when all do not. Memory is not copied."""
    good, bad = 0, batch.num_rows - start
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(batch.slice(start, middle)) else (good, middle)
    return good


def first_hole(error: SchemaMismatch, batch: pa.RecordBatch) -> int | None:
    """The first row with None (inside a list, too) in the column that the error is about; None when there is none."""
    for name, array in zip(batch.schema.names, batch.columns, strict=True):
        if concerned(error, name):
            lists = is_list(bare_type(array.type))
            return next((i for i, value in enumerate(array) if not value.is_valid or (lists and hole(value.as_py()))), None)
    return None


# ---- what a column of a batch is ----


def _column(name: str, array: Any, exact: bool) -> Column:
    number = _dtype(array.type)
    if number is not None and not array.null_count:  # asked for every batch, and so the common case is short
        return Column(name, "fixed", number, (), _tag(number, 0, exact))
    array = decoded(array)
    if not array.null_count:
        return _whole_column(name, array, exact)
    if exact:
        return Column(name, "object")
    column = _whole_column(name, array.drop_null(), exact)
    return Column(name, column.kind, column.dtype, column.shape, nulls="" if column.kind == "object" else "seen")


def _whole_column(name: str, array: Any, exact: bool) -> Column:
    """The column of an array without nulls."""
    pa = _arrow()
    if pa.types.is_null(array.type):
        return Column(name, "null")
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        return Column(name, "string")
    if pa.types.is_binary(array.type) or pa.types.is_large_binary(array.type):
        return Column(name, "bytes", python="bytearray" if exact and collects_bytearrays() else "")
    rows = len(array)
    shape: list[int] = []
    while True:
        if pa.types.is_fixed_size_list(array.type):
            length = array.type.list_size
        elif pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
            lengths = np.diff(array.offsets.to_numpy())
            length = int(lengths[0]) if lengths.size and (lengths == lengths[0]).all() else ANY_LENGTH
        else:
            break
        shape.append(length)
        array = array.flatten()
        if array.null_count:
            return Column(name, "object")
        if rows and not len(array) and not exact:
            return _without_items(name, array.type, tuple(shape))
    if exact and ANY_LENGTH in shape:
        return Column(name, "object")
    if shape and not rows and not exact:
        return Column(name, "null", nulls="seen")  # no list is there to say how long they are
    dtype = _dtype(array.type) or (_text(array.type) if shape and not exact else None)
    if dtype is None:
        return Column(name, "object")
    if exact:
        return Column(name, "fixed", dtype, tuple(shape), _tag(dtype, len(shape), exact))
    return nested_column(name, dtype, tuple(shape))


def _without_items(name: str, kind: Any, shape: tuple[int, ...]) -> Column:
    """Lists that are all empty: their type says what they would hold, but not how long the lists in them would be."""
    deeper = 0
    while hasattr(kind, "value_type"):
        kind, deeper = kind.value_type, deeper + 1
    text = _text(kind)
    if text is not None:
        return nested_column(name, text, (*shape, *(ANY_LENGTH,) * deeper))
    dtype = _dtype(kind)
    return Column(name, "object") if dtype is None else nested_column(name, dtype, shape)


def _text(kind: Any) -> str | None:
    pa = _arrow()
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "string"
    return "bytes" if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) else None


@functools.cache
def _tag(dtype: str, lists: int, exact: bool) -> str:
    return "/".join(["list"] * lists + [_PYTHON[np.dtype(dtype).kind]]) if exact else ""


@by_type
def _dtype(kind: Any) -> str | None:
    pa = _arrow()
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        name = np.dtype(kind.to_pandas_dtype()).name
        return name if name in DTYPES else None
    return None


def _check(column: Column, array: Any, exact: bool) -> None:
    if column.kind in ("unused", "object"):
        return
    array = decoded(array)
    found = _column(column.name, array, exact)
    if found == column or (not exact and _takes(column, found, array)):
        return
    raise SchemaMismatch(f"column {column.name!r}: expected {expected(column)}, the batch has {describe(found)}")


def _takes(column: Column, found: Column, array: Any) -> bool:
    """Column mode: whether the values can be written into a column that is not their own."""
    if found.nulls and not column.nulls:
        return False
    if found.kind == "null":
        return True
    if column.python == "bytes":
        lengths = np.diff(text_spans(array.drop_null())[0]) if found.kind == "bytes" else np.zeros(1)
        return bool((lengths == column.row_bytes).all())
    if column.kind == "ragged" and found.kind in ("fixed", "ragged"):
        shape = found.shape
        if shape[-1:] == (0,):  # lists without items are of any depth
            shape += column.shape[len(shape) :]
        depth = column.ragged_dims
        same = len(shape) == len(column.shape) and shape[depth:] == column.shape[depth:] and found.ragged_dims <= depth
    else:
        same = found.kind == column.kind and found.shape == column.shape
    if not same or found.dtype == column.dtype:
        return same
    if column.dtype in nested.TEXTS or found.dtype in nested.TEXTS:
        return False
    return values_fit(numbers_of(array.drop_null()), column.dtype, cast=True)


# ---- copies ----


def _fixed_numbers(column: Column, array: Any) -> np.ndarray:
    """The column's values, flat. Memory is not copied, except of booleans."""
    return text_spans(array)[1].view(dtype_of(column.dtype)) if column.python == "bytes" else numbers_of(array)


def _copy_fixed(column: Column, region: np.ndarray, array: Any) -> None:
    if array.null_count:
        valid = np.asarray(array.is_valid())
        fill = fill_bytes(column.kind, column.dtype, column.shape, column.fill)
        region[~valid] = np.frombuffer(fill, region.dtype).reshape(column.shape)
        values = _fixed_numbers(column, array.drop_null()).reshape(int(valid.sum()), *column.shape)
        with np.errstate(over="ignore"):
            region[valid] = values.astype(region.dtype)
        return
    values = _fixed_numbers(column, array).reshape(region.shape)
    if values.dtype == region.dtype and values.flags.c_contiguous:
        copy(region, values)
        return
    with np.errstate(over="ignore"):
        np.copyto(region, values, casting="unsafe")  # _check has seen the values


def _heap_values(column: Column, array: Any, room: int, node: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """Where each value ends (int64, one more than rows, from 0), and the bytes themselves; text and bytes are not copied.

    Objects are pickled only as far as there is room, and one more.
    """
    if column.kind == "object":
        try:
            array, convert = python_values(array, node)
            none = plain_fill(column.fill) if column.nulls == "fill" else None
            if convert is None and none is None:
                return _encoded(array, room, dumps)
            convert = convert or (lambda value: value)
            return _encoded(array, room, lambda value: dumps(none if value is None else convert(value)))
        except SchemaMismatch as error:
            raise SchemaMismatch(f"column {column.name!r}: {error}") from error
        except UnicodeDecodeError as error:
            raise no_text(column.name, error.object) from None
    if column.kind == "ragged":
        return encoded_lists(column, array, room)
    pa = _arrow()
    if array.null_count:
        fill = fill_bytes(column.kind, "", (), column.fill)
        value = fill.decode() if column.kind == "string" else fill
        array = pa.array([value] * len(array)) if pa.types.is_null(array.type) else array.fill_null(value)
    ends, data = text_spans(array)
    if column.kind == "string":
        check_text(column, ends, data)
    return ends, data


def _encoded(array: Any, room: int, encode: Callable[[Any], bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Values one by one, only as far as there is room, and one more."""
    ends, pieces = [0], []
    for scalar in array:
        pieces.append(encode(scalar.as_py()))
        ends.append(ends[-1] + len(pieces[-1]))
        if ends[-1] > room:
            break
    return np.array(ends, dtype=np.int64), np.frombuffer(b"".join(pieces), np.uint8)


def _check_size(form: Layout, heaps: dict[int, tuple[np.ndarray, np.ndarray]]) -> None:
    row_bytes = sum(column.row_bytes for column in form.schema.columns)
    heap_bytes = sum(int(offsets[1]) for offsets, _ in heaps.values())
    if lay_out(form.schema, 1, form.slot_bytes).heap + heap_bytes > form.slot_bytes:
        raise RowTooLarge(
            f"one row needs {row_bytes} bytes in the columns and {heap_bytes} in the heap; a slot has {form.slot_bytes} "
            f"bytes; make slot_bytes larger (of run, reserve or Channel.create)"
        )
