"""Arrow columns that are no numbers, text or lists of these: what column mode makes of them, before they are packed.

====================  ========================================================================================
type                  becomes
====================  ========================================================================================
struct                columns of dotted names; null where the struct is
map                   two list columns, ``<name>.key`` and ``<name>.value``
Spark ML vector       float64 of the vector's size, dense (Spark's schema says which structs are vectors)
Spark ML matrix       float64 of the matrix's rows and columns, dense
other types of users  what they are stored as
date                  int32, days since 1970-01-01
timestamp, duration   int64, microseconds (since 1970-01-01 UTC; without a time zone as if it were UTC), rounded down
decimal               float64, the nearest
fixed-shape tensor    its numbers in its shape, the permutation of its dimensions done
other extensions      what they are stored as
====================  ========================================================================================

Inside lists, too, but for structs and maps: these are values of one column of objects. VARIANT, GEOMETRY, GEOGRAPHY, times of a day
and calendar intervals are objects everywhere.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np

from tfos_fast.channel.arrow import spark_types
from tfos_fast.channel.arrow.plain import (
    bare,
    bare_type,
    by_type,
    days,
    entries,
    exchanged,
    floats,
    in_unit,
    is_encoded,
    is_list,
    lengths,
    list_part,
)
from tfos_fast.channel.schema.columns import Unit
from tfos_fast.channel.schema.structs import outer_names
from tfos_fast.errors import SchemaMismatch


def flatten_batch(batch: Any, whole: Collection[str] = ()) -> Any:
    """The ``pyarrow.RecordBatch`` with plain columns only. Values are copied where their type changes.

    Parameters
    ----------
    batch : pyarrow.RecordBatch
    whole : collection of str
        Leave columns, and fields of structs, of these names as they are: a spec declares them ``"object"``.

    Raises
    ------
    SchemaMismatch
        Two columns would have the same name, or a time is too large for 64 bits of microseconds.
    """
    import pyarrow as pa

    if all(map(_is_plain, batch.schema.types)):
        return batch.replace_schema_metadata(None) if batch.schema.metadata else batch
    told = spark_types.nodes(batch.schema)
    columns: dict[str, Any] = {}
    nodes: list[Any] = []
    for i, (name, column) in enumerate(zip(batch.schema.names, batch.columns, strict=True)):
        for path, array, node in _leaves(name, column, told[i] if told else None, whole):
            if path in columns:
                raise SchemaMismatch(f"several columns would be called {path!r}; give each a name of its own")
            columns[path] = array
            nodes.append(node)
    if not columns:
        return batch.select([])  # knows how many rows it has
    flat = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
    return spark_types.described(flat, nodes) if any(node is not None for node in nodes) else flat


def units(schema: Any) -> dict[str, Unit]:
    """What the integers of :func:`flatten_batch` count that were dates or times before, by the names of their columns."""
    return dict(found for field in schema if not _is_plain(field.type) for found in _units(field.name, field.type))


def _units(name: str, kind: Any) -> Iterator[tuple[str, Unit]]:
    import pyarrow as pa

    kind = bare_type(kind)
    while is_list(kind):
        kind = bare_type(kind.value_type)
        if pa.types.is_struct(kind) or pa.types.is_map(kind):
            return  # objects
    if pa.types.is_struct(kind):
        for i in range(kind.num_fields):
            yield from _units(f"{name}.{kind.field(i).name}", kind.field(i).type)
    elif pa.types.is_map(kind):
        for part, inner in (("key", kind.key_type), ("value", kind.item_type)):
            yield from _units(f"{name}.{part}", inner)
    elif pa.types.is_date(kind):
        yield name, "date"
    elif pa.types.is_timestamp(kind):
        yield name, "timestamp"
    elif pa.types.is_duration(kind):
        yield name, "duration"


def structs_of(schema: Any, whole: Collection[str] = ()) -> tuple[str, ...]:
    """Dotted names of the structs and maps that :func:`flatten_batch` takes apart, sorted."""
    told = spark_types.nodes(schema)
    found = (_structs(field.name, field.type, told[i] if told else None, whole) for i, field in enumerate(schema))
    return tuple(sorted(set(itertools.chain.from_iterable(found))))


def _structs(name: str, kind: Any, node: Any, whole: Collection[str]) -> Iterator[str]:
    import pyarrow as pa

    kind = bare_type(kind)
    if name in whole or spark_types.is_value(node, kind) or spark_types.is_vector(node) or spark_types.is_matrix(node):
        return
    if spark_types.is_udt(node):
        node = spark_types.part_of(node, "sqlType")
    if pa.types.is_map(kind):
        yield name
    elif pa.types.is_struct(kind) and kind.num_fields:
        yield name
        for i in range(kind.num_fields):
            field = kind.field(i)
            yield from _structs(f"{name}.{field.name}", field.type, spark_types.field_of(node, i), whole)


def arranged(batch: Any, names: Sequence[str]) -> Any:
    """The ``pyarrow.RecordBatch`` with these columns in this order; null where it has none. Memory is not copied."""
    import pyarrow as pa

    at = {name: i for i, name in enumerate(batch.schema.names)}
    columns = [batch.column(at[name]) if name in at else pa.nulls(batch.num_rows) for name in names]
    return pa.RecordBatch.from_arrays(columns, names=list(names)).replace_schema_metadata(batch.schema.metadata)


def is_flat(batch: Any, whole: Collection[str] = ()) -> bool:
    """Whether :func:`flatten_batch` takes the batch."""
    try:
        flatten_batch(batch, whole)
    except SchemaMismatch:
        return False
    return True


def leave_out(batch: Any, named: Collection[str]) -> Any:
    """The ``pyarrow.RecordBatch`` with nothing but null in columns of which neither they nor a part of them is named.

    Memory is not copied.
    """
    import pyarrow as pa

    wanted = outer_names(named).union(named)
    unused = [i for i, name in enumerate(batch.schema.names) if name not in wanted]
    if not unused:
        return batch
    schema, columns = batch.schema, batch.columns
    for i in unused:
        columns[i] = pa.nulls(batch.num_rows)
        schema = schema.set(i, pa.field(schema.names[i], pa.null()))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


@by_type
def _is_plain(kind: Any) -> bool:
    """Whether the packer takes values of this type as they are."""
    import pyarrow as pa

    while is_list(kind) and not is_encoded(kind):
        kind = kind.value_type
    of = pa.types
    changed = (of.is_date, of.is_timestamp, of.is_duration, of.is_decimal, of.is_struct, of.is_map)
    return not is_encoded(kind) and not any(is_type(kind) for is_type in changed)


def _leaves(name: str, array: Any, node: Any, whole: Collection[str]) -> list[tuple[str, Any, Any]]:
    import pyarrow as pa

    if name in whole:
        return [(name, array, node)]
    array = bare(array)
    kind = array.type
    if spark_types.is_value(node, kind):
        return [(name, array, node)]
    if spark_types.is_udt(node):
        linear = _linear(array, node)
        return _leaves(name, array, spark_types.part_of(node, "sqlType"), whole) if linear is None else [(name, linear, None)]
    if pa.types.is_struct(kind):
        names = [kind.field(i).name for i in range(kind.num_fields)]
        fields = zip(names, array.flatten(), strict=True)  # with the struct's own nulls
        return [
            leaf
            for i, (field, values) in enumerate(fields)
            for leaf in _leaves(f"{name}.{field}", values, spark_types.field_of(node, i), whole)
        ]
    if pa.types.is_map(kind):
        lists, items = entries(array)
        parts = zip(("key", "value"), items, ("keyType", "valueType"), strict=True)
        return [
            _numbers(f"{name}.{part}", list_part(lists, values), {"type": "array", "elementType": spark_types.part_of(node, key)})
            for part, values, key in parts
        ]
    return [_numbers(name, array, node)]


def _numbers(name: str, array: Any, node: Any) -> tuple[str, Any, Any]:
    """The column with numbers for dates, times, decimals, vectors and matrices, inside lists, too; and what is left of its node."""
    import pyarrow as pa

    if _is_plain(array.type) and node is None:
        return name, array, None
    try:
        array = exchanged(array, _as_numbers, node)
    except SchemaMismatch as error:
        raise SchemaMismatch(f"column {name!r}: {error}") from error
    kind = array.type
    while is_list(kind):
        kind = kind.value_type
    return name, array, node if pa.types.is_struct(kind) or pa.types.is_map(kind) else None


def _as_numbers(array: Any, node: Any) -> Any:
    import pyarrow as pa

    kind = array.type
    if spark_types.is_udt(node) and (numbers := _linear(array, node)) is not None:
        return numbers
    if pa.types.is_struct(kind) or pa.types.is_map(kind):
        return array  # inside a list: objects
    if pa.types.is_date(kind):
        return days(array)
    if pa.types.is_timestamp(kind) or pa.types.is_duration(kind):
        return in_unit(array, "us")
    return floats(array) if pa.types.is_decimal(kind) else None


def _linear(array: Any, node: Any) -> Any:
    """A vector's or matrix's numbers; None for other types of users."""
    array = bare(array)
    if spark_types.is_vector(node):
        return _dense(array)
    return _dense_matrices(array, node) if spark_types.is_matrix(node) else None


def _dense(array: Any) -> Any:
    """A column of Spark ML vectors as lists of float64. Dense ones are not copied when there are no others."""
    import pyarrow as pa

    kinds, sizes, indices, values = array.flatten()
    valid = np.asarray(array.is_valid())
    kinds = np.asarray(kinds.fill_null(1))
    if (kinds[valid] == 1).all():
        return values
    counts = np.where(valid, lengths(values), 0)
    each = np.where(kinds == 1, counts, np.asarray(sizes.fill_null(0)))
    each = np.where(valid, each, 0).astype(np.int64)
    starts = np.concatenate([[0], np.cumsum(each)])
    dense = np.zeros(starts[-1])
    flat = values.flatten().to_numpy(zero_copy_only=False)
    # Where each stored number goes: dense vectors count their items, sparse ones name them.
    row = np.repeat(np.arange(len(array)), counts)
    within = np.arange(len(flat)) - np.repeat(np.cumsum(counts) - counts, counts)
    sparse = (kinds == 0)[row]
    within[sparse] = indices.flatten().to_numpy(zero_copy_only=False)
    dense[starts[row] + within] = flat
    if starts[-1] >= 2**31:
        raise SchemaMismatch("a batch of sparse vectors has more than 2^31 numbers when dense: make Arrow's batches smaller")
    nulls = None if valid.all() else pa.array(~valid)
    return pa.ListArray.from_arrays(pa.array(starts, pa.int32()), pa.array(dense), mask=nulls)


def _dense_matrices(array: Any, node: Any) -> Any:
    """A column of Spark ML matrices as lists of lists of float64, one matrix after the other."""
    import pyarrow as pa

    make = spark_types.maker(node, array.type)
    rows = [None if value is None else make(tuple(value.values())).toArray() for value in array.to_pylist()]
    some = [row for row in rows if row is not None]
    if len({row.shape for row in some}) != 1 or not some[0].size:
        return pa.array([None if row is None else row.tolist() for row in rows], pa.list_(pa.list_(pa.float64())))
    shape = some[0].shape
    numbers = pa.array(np.concatenate([np.zeros(shape) if row is None else row for row in rows]).ravel())
    inner = pa.FixedSizeListArray.from_arrays(numbers, shape[1])
    mask = pa.array([row is None for row in rows]) if len(some) < len(rows) else None
    starts = pa.array(np.arange(len(rows) + 1) * shape[0], pa.int32())
    return pa.ListArray.from_arrays(starts, inner, mask=mask)
