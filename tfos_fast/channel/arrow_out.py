"""Slots of results into Arrow batches of declared columns: arrays of numbers in one copy, without making Python objects."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from tfos_fast.channel.decode import column_values, rows
from tfos_fast.channel.decode import columns as decode_columns
from tfos_fast.channel.layout import Layout
from tfos_fast.errors import SchemaMismatch

if TYPE_CHECKING:
    import pyarrow as pa

_MAX_OFFSET = 2**31 - 1


def slot_to_arrow(layout: Layout, slot: Any, count: int, schema: pa.Schema) -> pa.RecordBatch:
    """The results in a slot as one batch. Fixed columns are copied once, others through Python objects.

    Columns are found by name where results are dicts or Rows, else by position; a single declared column takes the whole result
    when that is not a dict, Row, or sequence of one value. What a result leaves out is null, and what it has more is left out;
    both at once is a name that is spelt in two ways.

    Parameters
    ----------
    layout : Layout
    slot : buffer
    count : int
        Rows in the slot.
    schema : pyarrow.Schema
        The declared columns.

    Raises
    ------
    SchemaMismatch
        A result has not as many values as there are columns, or other names; or a column does not become the declared type.
    """
    import pyarrow as pa

    found = layout.schema
    if found.structure in ("dict", "row"):
        check_names(found.names, schema.names)
        index = {name: i for i, name in enumerate(found.names)}
        picked = [index.get(name) for name in schema.names]
    elif len(found.columns) == len(schema) and (found.structure != "bare" or found.columns[0].kind == "fixed"):
        picked = list(range(len(schema)))
    else:
        picked = None
    if picked is None or (found.structure == "bare" and found.columns[0].python.startswith(("list", "tuple"))):
        return rows_to_arrow(rows(layout, slot, 0, count), schema)
    arrays = []
    fixed = decode_columns(_only_fixed(layout), slot, 0, count)
    for i, field in zip(picked, schema, strict=True):
        if i is None:
            arrays.append(pa.nulls(count, field.type))
        elif found.columns[i].kind == "fixed":
            arrays.append(_from_array(np.asarray(fixed[str(i)]), field))
        else:
            arrays.append(_from_values([_plain(value) for value in column_values(layout, slot, i, 0, count)], field))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _only_fixed(layout: Layout) -> Layout:
    """The fixed columns alone, named by their numbers: names of row mode need not be unique."""
    from tfos_fast.channel.schema import Column, Schema

    kept = [(i, column) for i, column in enumerate(layout.schema.columns) if column.kind == "fixed"]
    schema = Schema("tuple", tuple(Column(str(i), "fixed", column.dtype, column.shape) for i, column in kept))
    offsets = tuple(layout.offsets[i] for i, _ in kept)
    return Layout(schema, layout.capacity, offsets, (-1,) * len(kept), layout.heap, layout.slot_bytes)


def _from_array(values: np.ndarray, field: Any) -> Any:
    """One column of numbers as an Arrow array of the declared type, on memory of its own."""
    import pyarrow as pa

    kind = field.type
    shape = []
    for length in values.shape[1:]:
        if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
            raise SchemaMismatch(
                f"column {field.name!r}: the results are arrays of shape {list(values.shape[1:])}, the schema says {field.type}"
            )
        shape.append((kind, length))
        kind = kind.value_type
    numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    if not numeric or values.dtype.kind not in "biuf" or values.size > _MAX_OFFSET:
        return _from_values(values.tolist(), field)
    flat = _cast(values.reshape(-1), kind, field)
    for depth, (level, length) in reversed(list(enumerate(shape))):
        if pa.types.is_fixed_size_list(level):
            flat = pa.FixedSizeListArray.from_arrays(flat, type=level)
            continue
        lists = int(np.prod(values.shape[: depth + 1], dtype=np.int64))
        large = pa.types.is_large_list(level)
        offsets = pa.array(np.arange(lists + 1, dtype=np.int64 if large else np.int32) * length)
        flat = (pa.LargeListArray if large else pa.ListArray).from_arrays(offsets, flat, type=level)
    return flat


def _cast(flat: np.ndarray, kind: Any, field: Any) -> Any:
    import pyarrow as pa

    target = np.dtype(kind.to_pandas_dtype())
    if flat.dtype == target:
        return pa.array(flat.copy(), kind)  # Arrow aliases this copy; booleans are packed into bits
    if np.can_cast(flat.dtype, target, "safe") or (flat.dtype.kind == "f" and target.kind == "f"):
        with np.errstate(over="ignore"):  # float64 to float32 may give inf, as Arrow's cast does
            return pa.array(flat.astype(target), kind)
    try:
        return pa.array(flat.copy()).cast(kind)  # sees whether every value fits
    except pa.ArrowInvalid as error:
        raise _refused(field, error) from error


def _from_values(values: list[Any], field: Any) -> Any:
    import pyarrow as pa

    try:
        return pa.array(values, field.type)
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError) as error:
        raise _refused(field, error) from error


def _refused(field: Any, error: Exception) -> SchemaMismatch:
    return SchemaMismatch(f"column {field.name!r}: the results do not become {field.type}, as the declared schema says: {error}")


# ---- rows ----


def rows_to_arrow(results: list[Any], schema: pa.Schema) -> pa.RecordBatch:
    """Results that are Python objects as one batch."""
    import pyarrow as pa

    fields = [to_fields(result, schema.names) for result in results]
    columns = list(zip(*fields, strict=True)) if fields else [()] * len(schema)
    arrays = [_from_values(list(column), field) for column, field in zip(columns, schema, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def check_names(found: Collection[str], names: list[str]) -> None:
    """Refuse results that lack a declared column and have one that is not declared.

    Raises
    ------
    SchemaMismatch
    """
    missing = [name for name in names if name not in found]
    more = [name for name in found if name not in names]
    if missing and more:
        raise SchemaMismatch(
            f"the schema has {missing}, which the results do not have; they have {more}, which the schema does not have. Call "
            "them the same in infer(schema=) and batch_results(), or give None for a column without a value"
        )


def to_fields(result: Any, names: list[str]) -> list[Any]:
    """One result as values of columns: a Row or dict by names, a tuple or list by position, anything else is the only column.

    Raises
    ------
    SchemaMismatch
        It has not as many values as there are columns, or other names.
    """
    if hasattr(result, "__fields__"):
        result = result.asDict()
    if isinstance(result, dict):
        check_names(result, names)
        return [_plain(result.get(name)) for name in names]
    values = list(result) if isinstance(result, tuple | list) and (len(names) == len(result) or len(names) > 1) else [result]
    if len(values) != len(names):
        found = f"a result has {len(values)} values, and the schema has {len(names)} columns"
        raise SchemaMismatch(f"{found}: {names}; the result is {result!r:.200}")
    return [_plain(value) for value in values]


def _plain(value: Any) -> Any:
    """numpy scalars and arrays as Python values, which Arrow converts to the declared type."""
    return value.tolist() if hasattr(value, "tolist") else value
