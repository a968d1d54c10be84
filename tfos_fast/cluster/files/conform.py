"""Arrays of a file as the feed's type, which holds all of their values (``unify.py``). Memory is copied only where it must be."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfos_fast.cluster.files.footers import srid
from tfos_fast.cluster.files.unify import field_node, pairs
from tfos_fast.errors import SourceError

_DAYS = -141_427  # 1582-10-15, where the old calendar ends
_MICROSECONDS = -2_208_988_800_000_000  # 1900-01-01: until then zones differ between the calendars (apache/spark: RebaseDateTime)


def conform(array: Any, kind: Any, node: Any = None) -> Any:
    """Return the array as another type, inside lists and structs too.

    Parameters
    ----------
    array : pyarrow.Array
    kind : pyarrow.DataType
    node : str or dict, optional
        Spark's name of the type, see :class:`tfos_fast.cluster.files.unify.Held`.

    Raises
    ------
    pyarrow.ArrowException
        A value does not fit the type.
    """
    import pyarrow as pa

    have = array.type
    if have == kind:
        return array
    if pa.types.is_null(have):
        return pa.nulls(len(array), kind)
    if pa.types.is_dictionary(have):
        return conform(array.dictionary_decode(), kind, node)
    if pa.types.is_struct(kind):
        return _struct(array, kind, node)
    if pa.types.is_map(kind) and pa.types.is_map(have):
        inside = [(array.keys, kind.key_type, "keyType"), (array.items, kind.item_type, "valueType")]
        parts = [conform(part, of, _inside(node, key)) for part, of, key in inside]
        entries = pa.StructArray.from_arrays(parts, fields=[kind.key_field, kind.item_field])
        return _rebuilt(array, kind, entries)
    if pa.types.is_fixed_size_list(have) and pa.types.is_fixed_size_list(kind) and have.list_size == kind.list_size:
        items = conform(array.values, kind.value_type, _inside(node, "elementType"))
        return pa.Array.from_buffers(kind, len(array), array.buffers()[:1], array.null_count, array.offset, [items])
    if pa.types.is_fixed_size_list(have) and hasattr(kind, "value_field"):
        return _lists(array, kind, conform(array.flatten(), kind.value_type, _inside(node, "elementType")))
    if (pa.types.is_list(have) or pa.types.is_large_list(have)) and hasattr(kind, "value_field"):
        if pa.types.is_large_list(have) == pa.types.is_large_list(kind):
            return _rebuilt(array, kind, conform(array.values, kind.value_type, _inside(node, "elementType")))
        return _lists(array, kind, conform(array.flatten(), kind.value_type, _inside(node, "elementType")))
    return _leaf(array, kind)


def refuse_old(array: Any, leaves: list[str], name: str, path: str, writer: str) -> None:
    """Refuse days of the old calendar.

    Parameters
    ----------
    array : pyarrow.Array
        Of the file.
    leaves : list of str
        See :class:`tfos_fast.cluster.files.footers.FileColumns`.
    name, path, writer : str
        For the message: the column, the file, and which Spark wrote it.

    Raises
    ------
    SourceError
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    for part, leaf in zip(_leaves(array), leaves, strict=True):
        if not leaf:
            continue
        kind = pa.date32() if leaf == "date" else pa.timestamp("us")
        whole = _leaf(part, kind).cast(pa.int32() if leaf == "date" else pa.int64())
        first = pc.min(whole).as_py()
        if first is None or first >= (_DAYS if leaf == "date" else _MICROSECONDS):
            continue
        text = np.datetime64(first, "D" if leaf == "date" else "us")
        limit = "1582-10-15" if leaf == "date" else "1900-01-01"
        raise SourceError(
            f"{path}: column {name!r} has a {leaf} before {limit} ({text} as it stands), and {writer} wrote it in the old "
            "calendar; feed the DataFrame of spark.read.option('datetimeRebaseMode', 'LEGACY').option('int96RebaseMode', 'LEGACY')"
            ".parquet(path), which converts it, or write that DataFrame to new files and feed these"
        )


def _leaves(array: Any) -> list[Any]:
    """The innermost arrays, in the order in which the file has them."""
    import pyarrow as pa

    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return _leaves(array.storage)
    if pa.types.is_struct(kind):
        return [leaf for part in array.flatten() for leaf in _leaves(part)]
    if pa.types.is_map(kind):
        return _leaves(array.keys) + _leaves(array.items)
    return _leaves(array.flatten()) if hasattr(kind, "value_field") else [array]


def _inside(node: Any, key: str) -> Any:
    return node.get(key) if isinstance(node, dict) else None


def _struct(array: Any, kind: Any, node: Any) -> Any:
    import pyarrow as pa

    mask = array.is_null() if array.null_count else None
    fields = [kind.field(i) for i in range(kind.num_fields)]
    if not pa.types.is_struct(array.type):  # GEOMETRY: its coordinates' system, and the bytes
        parts = [pa.repeat(pa.scalar(srid(node), fields[0].type), len(array)), array.cast(fields[1].type)]
        return pa.StructArray.from_arrays(parts, fields=fields, mask=mask)
    there = [array.type.field(i).name for i in range(array.type.num_fields)]
    same = pairs([field.name for field in fields], there)
    parts = []
    for field in fields:
        if field.name not in same:
            parts.append(pa.nulls(len(array), field.type))
            continue
        parts.append(conform(array.field(there.index(same[field.name])), field.type, field_node(node, field.name)))
    return pa.StructArray.from_arrays(parts, fields=fields, mask=mask)


def _rebuilt(array: Any, kind: Any, items: Any) -> Any:
    """A list or map with the offsets and nulls of another one, of whose whole memory these are the items."""
    import pyarrow as pa

    return pa.Array.from_buffers(kind, len(array), array.buffers()[:2], array.null_count, array.offset, [items])


def _lists(array: Any, kind: Any, items: Any) -> Any:
    """Lists as long and as null as those of another array; ``items`` are those in them, one behind another."""
    import pyarrow as pa
    import pyarrow.compute as pc

    mask = array.is_null() if array.null_count else None
    lengths = np.asarray(pc.fill_null(pc.list_value_length(array), 0)).astype(np.int64)
    if pa.types.is_fixed_size_list(array.type) and mask is not None and len(items) == len(array) * array.type.list_size:
        lengths[:] = array.type.list_size  # this pyarrow's flatten() leaves the items of nulls in
    ends = np.concatenate([[0], np.cumsum(lengths)])
    large = pa.types.is_large_list(kind)
    offsets = pa.array(ends, pa.int64() if large else pa.int32())
    return (pa.LargeListArray if large else pa.ListArray).from_arrays(offsets, items, type=kind, mask=mask)


def _leaf(array: Any, kind: Any) -> Any:
    import pyarrow as pa

    have = array.type
    timed = pa.types.is_timestamp(kind) or pa.types.is_time(kind) or pa.types.is_duration(kind)
    if timed and getattr(have, "unit", kind.unit) == "ns" and kind.unit == "us":
        # Rounded down, as Spark has it; a cast of Arrow's refuses, or rounds to zero.
        numbers = array.view(pa.int64())
        mask = np.asarray(array.is_null()) if array.null_count else None
        floored = np.floor_divide(np.asarray(numbers.fill_null(0) if mask is not None else numbers), 1000)
        return pa.array(floored, pa.int64(), mask=mask).view(kind)
    if pa.types.is_duration(kind) and have == pa.int64():
        return array.view(kind)
    return array.cast(kind)
