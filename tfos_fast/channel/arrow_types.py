"""Arrow columns that are no numbers, text or lists of these: what column mode makes of them, before they are packed.

====================  ========================================================================================
type                  becomes
====================  ========================================================================================
struct                columns of dotted names; null where the struct is
map                   two list columns, ``<name>.key`` and ``<name>.value``
Spark ML vector       float64 of the vector's size, dense (found by the fields of its struct)
date                  int32, days since 1970-01-01
timestamp, duration   int64, microseconds (since 1970-01-01 UTC; without a time zone as if it were UTC)
decimal               float64, rounded
fixed-shape tensor    its numbers in its shape, the permutation of its dimensions done
other extensions      what they are stored as
====================  ========================================================================================
"""

from __future__ import annotations

import functools
from collections.abc import Collection
from typing import Any

import numpy as np

from tfos_fast.channel.structs import outer_names
from tfos_fast.errors import SchemaMismatch

_VECTOR = ("type", "size", "indices", "values")  # the fields of pyspark.ml.linalg.VectorUDT


def flatten_batch(batch: Any) -> Any:
    """The ``pyarrow.RecordBatch`` with plain columns only. Values are copied where their type changes."""
    import pyarrow as pa

    if all(map(_is_plain, batch.schema.types)):
        return batch
    columns: dict[str, Any] = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        for path, array in _leaves(name, column):
            if path in columns:
                raise SchemaMismatch(f"several columns would be called {path!r}; give each a name of its own")
            columns[path] = array
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


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


@functools.lru_cache(maxsize=1024)
def _is_plain(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind) or pa.types.is_map(kind) or isinstance(kind, pa.BaseExtensionType):
        return False
    return kind == _numeric(kind)


def _leaves(name: str, array: Any) -> list[tuple[str, Any]]:
    import pyarrow as pa

    if isinstance(array, pa.ExtensionArray):
        array = stored(array)
    kind = array.type
    if pa.types.is_dictionary(kind):
        return _leaves(name, array.dictionary_decode())
    if pa.types.is_struct(kind):
        names = [kind.field(i).name for i in range(kind.num_fields)]
        if tuple(names) == _VECTOR:
            return [(name, _dense(array))]
        fields = zip(names, array.flatten(), strict=True)  # with the struct's own nulls
        return [leaf for field, values in fields for leaf in _leaves(f"{name}.{field}", values)]
    if pa.types.is_map(kind):
        whole = pa.concat_arrays([array])  # of a slice, keys and items are those of the whole
        lists = [_list_like(whole, values) for values in (whole.keys, whole.items)]
        return [leaf for part, values in zip(("key", "value"), lists, strict=True) for leaf in _leaves(f"{name}.{part}", values)]
    return [(name, _as_numbers(array))]


def stored(array: Any) -> Any:
    """What an extension array is stored as; a fixed-shape tensor as lists of lists, one level for each dimension.

    Memory is not copied, except of tensors whose dimensions are permuted.
    """
    import pyarrow as pa

    storage, kind = array.storage, array.type
    if not isinstance(kind, pa.FixedShapeTensorType) or len(kind.shape) < 2 or 0 in kind.shape:
        return storage
    values, shape = storage.values, list(kind.shape)  # not those of a slice, but of the whole
    order = list(kind.permutation or range(len(shape)))
    if order != sorted(order):
        places = np.arange(len(values)).reshape(-1, *shape)
        values = values.take(pa.array(places.transpose(0, *(dimension + 1 for dimension in order)).ravel()))
        shape = [shape[dimension] for dimension in order]
    for length in reversed(shape[1:]):
        values = pa.FixedSizeListArray.from_arrays(values, length)
    lists = pa.list_(values.type, shape[0])
    return pa.Array.from_buffers(lists, len(storage), storage.buffers()[:1], storage.null_count, storage.offset, [values])


def _list_like(array: Any, values: Any) -> Any:
    """A list column with the offsets and nulls of a map."""
    import pyarrow as pa

    return pa.ListArray.from_arrays(array.offsets, values, mask=array.is_null() if array.null_count else None)


def _as_numbers(array: Any) -> Any:
    target = _numeric(array.type)
    if target == array.type:
        return array
    whole = _in_microseconds(array.type)
    if whole != array.type:
        array = array.cast(whole, safe=False)
    return array.cast(target, safe=False)


def _numeric(kind: Any) -> Any:
    """The type that stands for this one."""
    import pyarrow as pa

    if pa.types.is_date(kind):
        return pa.int32()
    if pa.types.is_timestamp(kind) or pa.types.is_duration(kind):
        return pa.int64()
    if pa.types.is_decimal(kind):
        return pa.float64()
    return _of_items(kind, _numeric)


def _in_microseconds(kind: Any) -> Any:
    import pyarrow as pa

    if pa.types.is_date(kind):
        return pa.date32()
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz)
    if pa.types.is_duration(kind):
        return pa.duration("us")
    return _of_items(kind, _in_microseconds)


def _of_items(kind: Any, change: Any) -> Any:
    """The list type with its items' type changed."""
    import pyarrow as pa

    if pa.types.is_map(kind) or not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        return kind
    items = change(kind.value_type)
    if items == kind.value_type:
        return kind
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(items, kind.list_size)
    return pa.large_list(items) if pa.types.is_large_list(kind) else pa.list_(items)


def _dense(array: Any) -> Any:
    """A column of Spark ML vectors as lists of float64. Dense ones are not copied when there are no others."""
    import pyarrow as pa

    kinds, sizes, indices, values = array.flatten()
    valid = np.asarray(array.is_valid())
    kinds = np.asarray(kinds.fill_null(1))
    if (kinds[valid] == 1).all():
        return values
    lengths = np.where(kinds == 1, _lengths(values), np.asarray(sizes.fill_null(0)))
    lengths = np.where(valid, lengths, 0).astype(np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    dense = np.zeros(starts[-1])
    counts = np.where(valid, _lengths(values), 0)
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


def _lengths(lists: Any) -> np.ndarray:
    import pyarrow.compute as pc

    return np.asarray(pc.fill_null(pc.list_value_length(lists), 0)).astype(np.int64)
