"""Slots of results into Arrow batches of declared columns: arrays of numbers in one copy, without making Python objects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tfos_fast.channel.arrow.build import from_numbers, to_array
from tfos_fast.channel.codec.decode import column_values, rows
from tfos_fast.channel.codec.decode import columns as decode_columns
from tfos_fast.channel.codec.layout import Layout
from tfos_fast.channel.codec.result_columns import Takes, pick, takes, to_fields
from tfos_fast.errors import SchemaMismatch

if TYPE_CHECKING:
    import pyarrow as pa


def slot_to_arrow(layout: Layout, slot: Any, count: int, schema: pa.Schema, *, tuples: bool = False) -> pa.RecordBatch:
    """The results in a slot as one batch. Fixed columns are copied once, others through Python objects.

    ``channel/codec/result_columns.py`` says which part of a result goes to which column, ``build.py`` which values a type takes.

    Parameters
    ----------
    layout : Layout
    slot : buffer
    count : int
        Rows in the slot.
    schema : pyarrow.Schema
        The declared columns.
    tuples : bool
        Tuples are columns also where a single column could take them as its value.

    Raises
    ------
    SchemaMismatch
        A result has not as many values as there are columns, or other names; or a column does not become the declared type.
    """
    import pyarrow as pa

    found = layout.schema
    whole = takes(schema, tuples=tuples)
    picked = pick(found, schema, whole=whole)
    if picked is None:
        return rows_to_arrow(rows(layout, slot, 0, count), schema, whole=whole)
    arrays = []
    fixed = decode_columns(_only_fixed(layout), slot, 0, count)
    for i, field in zip(picked, schema, strict=True):
        if i is None and not field.nullable:
            raise SchemaMismatch(f"column {field.name!r}: the results do not have it, and the schema says NOT NULL; give it")
        if i is None:
            arrays.append(pa.nulls(count, field.type))
        elif found.columns[i].kind == "fixed":
            arrays.append(from_numbers(np.asarray(fixed[str(i)]), field))
        else:
            arrays.append(to_array(column_values(layout, slot, i, 0, count), field))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _only_fixed(layout: Layout) -> Layout:
    """The fixed columns alone, named by their numbers: names of row mode need not be unique."""
    from tfos_fast.channel.schema.columns import Column, Schema

    kept = [(i, column) for i, column in enumerate(layout.schema.columns) if column.kind == "fixed"]
    schema = Schema("tuple", tuple(Column(str(i), "fixed", column.dtype, column.shape) for i, column in kept))
    offsets = tuple(layout.offsets[i] for i, _ in kept)
    return Layout(schema, layout.capacity, offsets, (-1,) * len(kept), layout.heap, layout.slot_bytes)


def rows_to_arrow(results: list[Any], schema: pa.Schema, *, whole: Takes) -> pa.RecordBatch:
    """Results that are Python objects as one batch."""
    import pyarrow as pa

    fields = [to_fields(result, schema.names, whole=whole) for result in results]
    columns = list(zip(*fields, strict=True)) if fields else [()] * len(schema)
    arrays = [to_array(column, field) for column, field in zip(columns, schema, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
