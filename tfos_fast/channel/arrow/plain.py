"""Arrow arrays of plain types only: encodings are undone, and parts of nested arrays are exchanged.

An *encoding* is another form of the same values: dictionary, run ends, views of text, bytes and lists, an extension's storage.
Row mode and column mode both begin with this module.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from tfos_fast.channel.arrow.spark_types import field_of, part_of
from tfos_fast.errors import SchemaMismatch

#: ``change(array, node)`` gives what stands for an array, or None to look inside it. Node: see ``spark_types.py``.
Change = Callable[[Any, Any], Any]


def by_type(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Remember what a function of an Arrow type gives. Extension types that a user wrote in Python have no hash: it is called."""
    cached = functools.lru_cache(maxsize=1024)(function)

    @functools.wraps(function)
    def call(kind: Any) -> Any:
        try:
            return cached(kind)
        except TypeError:
            return function(kind)

    return call


@by_type
def is_encoded(kind: Any) -> bool:
    """Whether values of this type, or of a type inside it, are encoded."""
    return _is_outside(kind) or any(is_encoded(kind.field(i).type) for i in range(kind.num_fields))


@by_type
def _is_outside(kind: Any) -> bool:
    """Whether values of this type are encoded, whatever holds for types inside it."""
    import pyarrow as pa

    if isinstance(kind, pa.BaseExtensionType) or pa.types.is_dictionary(kind) or pa.types.is_fixed_size_binary(kind):
        return True
    return _is_run_ends(kind) or is_list_view(kind) or kind in _views()


def bare_type(kind: Any) -> Any:
    """The type of an array of this type when :func:`bare` has undone its outermost encoding."""
    import pyarrow as pa

    if isinstance(kind, pa.BaseExtensionType):
        if isinstance(kind, pa.FixedShapeTensorType):
            return _tensor_lists(kind)
        return bare_type(kind.storage_type)
    if pa.types.is_dictionary(kind) or _is_run_ends(kind):
        return bare_type(kind.value_type)
    if pa.types.is_fixed_size_binary(kind):
        return pa.large_binary()
    if is_list_view(kind):
        return pa.large_list(kind.value_field)
    return _views().get(kind, kind)


def bare(array: Any) -> Any:
    """The array without its outermost encodings. Copies only an encoded one."""
    import pyarrow as pa

    kind = array.type
    if not _is_outside(kind):  # asked for every batch, and so the common case is short
        return array
    if isinstance(array, pa.ExtensionArray):
        return bare(stored(array))
    if pa.types.is_dictionary(kind):
        if _is_outside(kind.value_type):  # pyarrow does not decode a dictionary of views
            array = pa.DictionaryArray.from_arrays(array.indices, bare(array.dictionary))
        return bare(array.dictionary_decode())
    if _is_run_ends(kind):
        import pyarrow.compute as pc

        return bare(pc.run_end_decode(array))
    if is_list_view(kind):
        return _from_views(array)
    return array.cast(bare_type(kind))


def decoded(array: Any) -> Any:
    """The array without encodings, inside lists, structs and maps too. Copies only encoded parts, and what holds them."""
    return exchanged(array, lambda part, _: None if is_encoded(part.type) else part) if is_encoded(array.type) else array


def exchanged(array: Any, change: Change, node: Any = None) -> Any:
    """The array with the parts that ``change`` exchanges, and without encodings where it looks inside.

    Structs keep their nulls. Where something in them has changed, or two fields have the same name, fields are called by their
    numbers. A map becomes a list of structs of ``key`` and ``value``.

    Parameters
    ----------
    array : pyarrow.Array
    change : callable
    node : str or dict, optional
        What Spark says of the array's type, where it is known.
    """
    import pyarrow as pa

    array = bare(array)
    new = change(array, node)
    if new is not None:
        return new
    kind = array.type
    node = part_of(node, "sqlType") or node
    if pa.types.is_struct(kind):
        fields = [kind.field(i) for i in range(kind.num_fields)]
        parts = [exchanged(part, change, field_of(node, i)) for i, part in enumerate(array.flatten())]
        unique = len({field.name for field in fields}) == len(fields)
        if unique and all(part.type == field.type for part, field in zip(parts, fields, strict=True)):
            return array
        return pa.StructArray.from_arrays(parts, names=[str(i) for i in range(len(fields))], mask=nulls_of(array))
    if pa.types.is_map(kind):
        lists, items = entries(array)
        parts = [exchanged(part, change, part_of(node, key)) for part, key in zip(items, ("keyType", "valueType"), strict=True)]
        return list_part(lists, pa.StructArray.from_arrays(parts, names=["key", "value"]))
    if is_list(kind):
        items = array.flatten()
        new = exchanged(items, change, part_of(node, "elementType"))
        return array if new is items or new.type == items.type else list_part(array, new)
    return array


def is_list(kind: Any) -> bool:
    """Whether it is a list with offsets or of one length; a map is none, a list of views neither."""
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def is_list_view(kind: Any) -> bool:
    """Whether it is a list that says where its items lie, in any order."""
    import pyarrow as pa

    return any(getattr(pa.types, name)(kind) for name in ("is_list_view", "is_large_list_view") if hasattr(pa.types, name))


def nulls_of(array: Any) -> Any:
    """True for each null; None when there are none."""
    return array.is_null() if array.null_count else None


def lengths(lists: Any) -> np.ndarray:
    """How many items each list has, int64; 0 for null."""
    import pyarrow.compute as pc

    return np.asarray(pc.fill_null(pc.list_value_length(lists), 0)).astype(np.int64)


def entries(array: Any) -> tuple[Any, list[Any]]:
    """A map array as lists (of whatever has as many items), and the keys and values that these lists have, one behind another."""
    import pyarrow as pa

    pairs = pa.StructArray.from_arrays([array.keys, array.items], names=["key", "value"])
    same = pa.list_(pairs.type)
    lists = pa.Array.from_buffers(same, len(array), array.buffers()[:2], array.null_count, array.offset, [pairs])
    return lists, lists.flatten().flatten()


def list_part(like: Any, items: Any) -> Any:
    """Lists of these items, as long and as null as those of ``like``."""
    import pyarrow as pa

    if pa.types.is_list(like.type) and not like.null_count:
        starts = like.offsets.to_numpy()
        return pa.ListArray.from_arrays(pa.array(starts - starts[0] if starts[0] else starts), items)
    ends = np.zeros(len(like) + 1, np.int64)
    np.cumsum(lengths(like), out=ends[1:])
    if ends[-1] >= 2**31:
        return pa.LargeListArray.from_arrays(pa.array(ends), items, mask=nulls_of(like))
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), items, mask=nulls_of(like))


def _from_views(array: Any) -> Any:
    """List views as lists. Not by Arrow's cast, which loses items behind a null (pyarrow 26)."""
    import pyarrow as pa

    sizes = np.where(np.asarray(array.is_valid()), np.asarray(array.sizes), 0).astype(np.int64)
    starts = np.asarray(array.offsets).astype(np.int64)
    ends = np.zeros(len(array) + 1, np.int64)
    np.cumsum(sizes, out=ends[1:])
    places = np.arange(ends[-1]) - np.repeat(ends[:-1] - starts, sizes)
    items = array.values.take(pa.array(places))
    return pa.LargeListArray.from_arrays(pa.array(ends), items, mask=nulls_of(array))


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


def _tensor_lists(kind: Any) -> Any:
    import pyarrow as pa

    shape = list(kind.shape)
    if len(shape) < 2 or 0 in shape:
        return kind.storage_type
    items = kind.value_type
    for dimension in reversed(kind.permutation or range(len(shape))):
        items = pa.list_(items, shape[dimension])
    return items


@functools.cache
def _views() -> dict[Any, Any]:
    import pyarrow as pa

    if not hasattr(pa, "string_view"):  # pyarrow 16 brought them
        return {}
    return {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}


def _is_run_ends(kind: Any) -> bool:
    import pyarrow as pa

    return bool(hasattr(pa.types, "is_run_end_encoded") and pa.types.is_run_end_encoded(kind))


# ---- times -------------------------------------------------------------------------------------------------------------------

_OF_A_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_DAY_MS = 86_400_000


def in_unit(array: Any, unit: str) -> Any:
    """Timestamps, durations or times of day as int64 in another unit, rounded down.

    Raises
    ------
    SchemaMismatch
        A value does not fit int64 in that unit.
    """
    import pyarrow as pa

    wide = pa.types.is_time32(array.type)
    whole = array.view(pa.int32()).cast(pa.int64()) if wide else array.view(pa.int64())
    have, want = _OF_A_SECOND[array.type.unit], _OF_A_SECOND[unit]
    return whole if have == want else scaled(whole, want, have, array.type, f"64 bits of {unit}")


def days(array: Any) -> Any:
    """Dates as int32, days since 1970-01-01, rounded down.

    Raises
    ------
    SchemaMismatch
        A day does not fit int32.
    """
    import pyarrow as pa

    if array.type == pa.date32():
        return array.view(pa.int32())
    found = scaled(array.view(pa.int64()), 1, _DAY_MS, array.type, "32 bits of days")
    try:
        return found.cast(pa.int32())
    except pa.ArrowInvalid:
        raise SchemaMismatch(f"a value of type {array.type} does not fit 32 bits of days") from None


def scaled(array: Any, up: int, down: int, kind: Any, limits: str) -> Any:
    """An int64 array times ``up / down``, one of which divides the other, rounded down."""
    import pyarrow as pa

    numbers = np.asarray(array.fill_null(0) if array.null_count else array)
    if up >= down:
        factor = up // down
        most = (2**63 - 1) // factor
        over = (numbers > most) | (numbers < -most)
        if over.any():
            raise SchemaMismatch(f"the value {int(numbers[over][0])} of type {kind} does not fit {limits}")
        numbers = numbers * factor
    else:
        numbers = numbers // (down // up)
    return pa.array(numbers, pa.int64(), mask=np.asarray(array.is_null()) if array.null_count else None)


# ---- decimals ----------------------------------------------------------------------------------------------------------------

_EXACT = 2**53  # up to here float64 has every whole number
_POWER = 22  # the greatest power of ten that float64 has exactly


def floats(array: Any) -> Any:
    """Decimals as float64, each the nearest there is, as ``float(Decimal)`` gives it. Arrow's own cast misses some by a bit."""
    import pyarrow as pa

    kind = array.type
    if pa.types.is_decimal128(kind) and -_POWER <= kind.scale <= _POWER:
        words = np.frombuffer(array.buffers()[1] or b"", "<i8")[2 * array.offset : 2 * (array.offset + len(array))]
        low, high = words[::2], words[1::2]
        if ((low >= -_EXACT) & (low <= _EXACT) & (high == low >> 63)).all():
            # Both numbers are exact, and so is what IEEE 754 says of a single division or product of them.
            numbers = low / 10.0**kind.scale if kind.scale >= 0 else low * 10.0**-kind.scale
            return pa.array(numbers, mask=np.asarray(array.is_null()) if array.null_count else None)
    return array.cast(pa.string()).cast(pa.float64())
