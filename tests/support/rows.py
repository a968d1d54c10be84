"""What the tests of packing share: slots, a feeder in miniature, hypothesis strategies of rows, and a strict equality."""

from __future__ import annotations

import datetime
import decimal
import math
import struct
from collections import namedtuple
from collections.abc import Iterable
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tfos_fast.channel.codec import decode
from tfos_fast.channel.codec.layout import Layout, layout, plan
from tfos_fast.channel.schema.columns import Schema
from tfos_fast.channel.schema.detect import infer
from tfos_fast.channel.schema.widen import Nulls, apply_nulls, apply_spec, join
from tfos_fast.native.pickled.batch import StreamBatch
from tfos_fast.native.pickled.pack_rows import pack_stream
from tfos_fast.native.row_packer import END, FULL, MISFIT, RowPacker
from tfos_fast.values.ragged import Ragged

Point = namedtuple("Point", ["x", "y"])


def slot(size: int) -> np.ndarray:
    """Memory like a slot's: its address is a multiple of 64. Filled with a pattern, so that nothing is zero by chance."""
    raw = np.full(size + 64, 0xA5, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size]


def same(a: Any, b: Any) -> bool:
    """Equality that also compares types, through all containers, and takes every NaN for itself."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        equal = a.dtype == b.dtype and a.shape == b.shape
        if a.dtype.hasobject:
            return equal and all(map(same, a.ravel().tolist(), b.ravel().tolist()))
        return equal and a.tobytes() == b.tobytes()
    if isinstance(a, Ragged):
        return same(a.values, b.values) and same(list(a.splits), list(b.splits))
    if isinstance(a, np.generic):
        return a.dtype == b.dtype and a.tobytes() == b.tobytes()
    if isinstance(a, float):
        return struct.pack("d", a) == struct.pack("d", b) or (math.isnan(a) and math.isnan(b))
    if isinstance(a, complex):
        return same(a.real, b.real) and same(a.imag, b.imag)
    if isinstance(a, (list, tuple)):
        named = tuple(getattr(a, "__fields__", ())) == tuple(getattr(b, "__fields__", ()))
        return named and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return same(list(a), list(b)) and same(list(a.values()), list(b.values()))
    return bool(a == b)


def drive(
    rows: Iterable[Any],
    *,
    exact: bool,
    slot_bytes: int = 4096,
    batch: int = 4,
    heap_per_row: float = 50.0,
    spec: dict | None = None,
    nulls: dict[str, Nulls] | None = None,
    stream: StreamBatch | None = None,
) -> list[tuple[Layout, np.ndarray, int]]:
    """Feed rows as a writer does: infer, pack, take a new slot when one is full, widen when a row does not fit.

    With ``stream`` the rows come from there, and ``rows`` only gives the first one. Returns the slots: layout, memory and number of
    rows of each.
    """

    def declared(schema: Schema) -> Schema:
        if exact:
            return schema
        return apply_nulls(schema if spec is None else apply_spec(schema, spec), nulls or {})

    iterator = iter(rows)
    nothing = object()
    first = next(iterator, nothing)
    if first is nothing:
        return []
    schema = infer(first, exact=exact)
    packer = RowPacker(declared(schema), exact=exact, cast=spec is not None)
    if stream is None:
        packer.set_pending(first)
    slots = []
    while True:
        layout = plan(packer.schema, slot_bytes, batch=batch, heap_per_row=heap_per_row)
        memory = slot(slot_bytes)
        packer.bind(memory, layout)
        event = packer.pack_from(iterator, 3600.0) if stream is None else pack_stream(packer, stream, 3600.0)
        packer.unbind()
        if packer.rows:
            slots.append((packer.layout, memory, packer.rows))
        if event == END:
            assert not packer.has_pending
            return slots
        if event == MISFIT:
            assert packer.has_pending
            schema = join(schema, infer(packer.pending, exact=exact), exact=exact)
            older, packer = packer, RowPacker(declared(schema), exact=exact, cast=spec is not None)
            assert older.schema != packer.schema, "a misfit that widens nothing would come again for ever"
            packer.set_pending(older.take_pending())
        else:
            assert event == FULL


def rows_of(slots: list[tuple[Layout, np.ndarray, int]]) -> list[Any]:
    """All rows of the slots, in row mode."""
    return [row for layout, memory, count in slots for row in decode.rows(layout, memory, 0, count)]


# ---- strategies ----

surrogates = st.text(st.characters(categories=["Cs", "Lu"]), min_size=1, max_size=4)
texts = st.text(max_size=12) | surrogates
small_ints = st.integers(-5, 5)
ints = st.integers(-(2**63), 2**63 - 1) | small_ints | st.integers()
floats = st.floats()
dtypes = st.sampled_from(
    ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16", ">f8", ">i4", "M8[s]", "S3", "U2"]
)
arrays = hnp.arrays(dtypes, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
# Only native ones: pickling (protocol 5) gives a strided big-endian array back in native byte order.
native = arrays.filter(lambda array: array.dtype.isnative)
views = native.map(lambda array: array.T) | native.map(lambda array: array[..., ::2] if array.ndim else array)
records = hnp.arrays(np.dtype([("a", "i4"), ("b", "f8")]), hnp.array_shapes(max_dims=2, max_side=3))
scalars = arrays.filter(lambda array: array.size > 0).map(lambda array: array.ravel()[0])
numbers = st.one_of(floats, ints, st.booleans())


def nests(leaf: st.SearchStrategy) -> st.SearchStrategy:
    """Regular and ragged nested lists and tuples."""
    return st.recursive(
        st.lists(leaf, max_size=5), lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner), max_leaves=12
    )


flat = st.one_of(
    st.lists(floats, max_size=6),
    st.lists(small_ints, max_size=6),
    st.lists(st.booleans(), max_size=4),
    st.tuples(floats, floats),
    st.lists(st.tuples(floats, floats), min_size=2, max_size=2),
    st.lists(numbers, max_size=4),
)
exotic = st.one_of(
    st.none(),
    st.complex_numbers(),
    st.decimals(allow_nan=False),
    st.dates(),
    st.timedeltas(),
    st.builds(Point, floats, ints),
    st.builds(np.str_, st.text(max_size=3).map(lambda text: text.rstrip("\0"))),  # numpy pickles none of these zeros
    st.builds(np.bytes_, st.binary(min_size=1, max_size=3).filter(lambda data: not data.endswith(b"\0"))),
    st.sets(small_ints, max_size=3),
    st.just(datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc)),
    st.just(decimal.Decimal("1.20")),
)
values = st.one_of(
    numbers,
    texts,
    st.binary(max_size=12),
    st.binary(max_size=5).map(bytearray),
    flat,
    nests(floats),
    nests(ints),
    arrays,
    views,
    records,
    scalars,
    exotic,
    st.dictionaries(texts, numbers, max_size=3),
)
names = st.text(max_size=4)
#: Rows of a feed that keeps its structure, mostly: tuples of a few columns, each column of one sort with rare exceptions.
anything = st.one_of(
    values,
    st.tuples(values, values),
    st.lists(values, max_size=3),
    st.dictionaries(names, values, max_size=3),
    st.lists(floats, min_size=17, max_size=20),
    st.just(()),
    st.just({}),
)


@st.composite
def feeds(draw: st.DrawFn) -> list[Any]:
    """Rows of one structure whose columns keep their sort, with an exception now and then."""
    sorts = [floats, small_ints, ints, st.booleans(), texts, st.binary(max_size=9), flat, arrays, scalars, numbers, values]
    width = draw(st.integers(0, 3))
    columns = [draw(st.sampled_from(sorts)) for _ in range(width)]
    steady = [draw(st.booleans()) for _ in range(width)]
    fixed = [draw(column) for column in columns]
    structure = draw(st.sampled_from(["tuple", "list", "dict", "bare"]))
    out: list[Any] = []
    for _ in range(draw(st.integers(0, 25))):
        row = [value if stays else draw(column) for value, stays, column in zip(fixed, steady, columns, strict=True)]
        if draw(st.integers(0, 19)) == 0:
            out.append(draw(anything))
        elif structure == "bare":
            out.append(row[0] if row else 1.5)
        elif structure == "dict":
            out.append({f"k{i}": value for i, value in enumerate(row)})
        else:
            out.append(row if structure == "list" else tuple(row))
    return out


def packer_for(
    row: Any,
    *,
    exact: bool = True,
    capacity: int = 8,
    slot_bytes: int = 4096,
    spec: dict | None = None,
) -> tuple[RowPacker, Layout, np.ndarray]:
    """A packer bound to a fresh slot, for rows such as this one."""
    schema = infer(row, exact=exact)
    if spec is not None:
        schema = apply_spec(schema, spec)
    packer = RowPacker(schema, exact=exact, cast=spec is not None)
    form, memory = layout(schema, capacity, slot_bytes), slot(slot_bytes)
    packer.bind(memory, form)
    return packer, form, memory
