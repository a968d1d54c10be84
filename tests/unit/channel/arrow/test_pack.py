"""Arrow batches: what their columns become, and that every value arrives, whatever slices and types hold it."""

from __future__ import annotations

import datetime
import decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.support.arrow_batches import BINARY, as_collected, column_of, feed, one, rows_of
from tests.support.rows import same, slot
from tfos_fast.channel.arrow.pack import from_arrow, pack_batch
from tfos_fast.channel.codec import decode
from tfos_fast.channel.codec.layout import layout
from tfos_fast.channel.schema.columns import Column, Schema
from tfos_fast.channel.schema.detect import infer
from tfos_fast.channel.schema.widen import Nulls
from tfos_fast.errors import RowTooLarge, SchemaMismatch
from tfos_fast.native.row_packer import RowPacker

pa = pytest.importorskip("pyarrow")
types = pytest.importorskip("pyspark.sql.types")
pyspark = pytest.importorskip("pyspark")

thorough = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))


def spark_rows(batch: Any) -> list[Any]:
    """The batch's rows as pyspark Rows of plain Python values, as this pyspark has them."""
    make = types.Row(*batch.schema.names)
    return [make(*map(as_collected, values)) for values in zip(*[column.to_pylist() for column in batch.columns], strict=True)]


PRIMITIVE = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64"]


@pytest.mark.parametrize("name", PRIMITIVE)
def test_numbers(name: str) -> None:
    array = pa.array([0, 1, 100, 2], getattr(pa, name)())
    tag = "float" if name.startswith("float") else "int"
    assert one(array) == Column("a", "fixed", name, (), tag)
    assert one(array, exact=False) == Column("a", "fixed", name)
    batch = pa.record_batch([array], names=["a"])
    assert same(rows_of(feed([batch], exact=True)), spark_rows(batch))
    ((form, memory, _),) = feed([batch], exact=False)
    assert same(decode.columns(form, memory, 0, 4)["a"], np.array([0, 1, 100, 2], name))


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (pa.array([True, False]), Column("a", "fixed", "bool", (), "bool")),
        (pa.array(np.array([1.5, 2.5], np.float16)), Column("a", "fixed", "float16", (), "float")),
        (pa.array(["a", ""]), Column("a", "string")),
        (pa.array(["a", ""], pa.large_string()), Column("a", "string")),
        (pa.array(["a", "b", "a"]).dictionary_encode(), Column("a", "string")),
        (pa.array([3, 4, 3]).dictionary_encode(), Column("a", "fixed", "int64", (), "int")),
        (pa.array([b"a", b""]), Column("a", "bytes", python=BINARY)),
        (pa.array([b"a", b""], pa.large_binary()), Column("a", "bytes", python=BINARY)),
        (pa.array([b"ab", b"cd"], pa.binary(2)), Column("a", "bytes", python=BINARY)),
        (pa.array([[1.0, 2.0], [3.0, 4.0]]), Column("a", "fixed", "float64", (2,), "list/float")),
        (pa.array([[1], [3]], pa.large_list(pa.int16())), Column("a", "fixed", "int16", (1,), "list/int")),
        (pa.array([[1, 2], [3, 4]], pa.list_(pa.uint8(), 2)), Column("a", "fixed", "uint8", (2,), "list/int")),
        (pa.array([[[1.0], [2.0]]]), Column("a", "fixed", "float64", (2, 1), "list/list/float")),
        (pa.array([[[True]], [[False]]]), Column("a", "fixed", "bool", (1, 1), "list/list/bool")),
        (pa.array([[], []], pa.list_(pa.float32())), Column("a", "fixed", "float32", (0,), "list/float")),
    ],
    ids=lambda value: str(getattr(value, "type", "")),
)
def test_columns_without_objects(array: Any, expected: Column) -> None:
    assert one(array) == expected
    batch = pa.record_batch([array], names=["a"])
    assert same(rows_of(feed([batch], exact=True)), spark_rows(batch))
    assert column_of(feed([batch], exact=False)) == array.to_pylist()


@pytest.mark.parametrize(
    ("array", "values"),
    [
        (pa.array([1, None]), [1, None]),
        (pa.array(["a", None]), ["a", None]),
        (pa.array([None, None]), [None, None]),
        (pa.array([[1], [1, 2]]), [[1], [1, 2]]),
        (pa.array([[1], None]), [[1], None]),
        (pa.array([[1, None], [1, 2]]), [[1, None], [1, 2]]),
        (pa.array([["a"], ["b"]]), [["a"], ["b"]]),
        (pa.array([datetime.date(2024, 2, 29)]), [datetime.date(2024, 2, 29)]),
        (pa.array([decimal.Decimal("1.20")]), [decimal.Decimal("1.20")]),
        (pa.array([datetime.datetime(2024, 1, 2, 3, 4, 5)]), [datetime.datetime(2024, 1, 2, 3, 4, 5)]),
        (
            pa.array([datetime.datetime(2024, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc)]),
            [datetime.datetime(2024, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc).astimezone().replace(tzinfo=None)],
        ),
        (pa.array([datetime.timedelta(1)]), [datetime.timedelta(1)]),
        (pa.array([{"x": 1, "y": "z"}, None]), [types.Row("x", "y")(1, "z"), None]),
        (pa.array([[{"x": 1}], []]), [[types.Row("x")(1)], []]),
        (pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int32())), [{"k": 1}, {}]),
        (
            pa.array([[("k", {"x": None})]], pa.map_(pa.string(), pa.struct([("x", pa.int32())]))),
            [{"k": types.Row("x")(None)}],
        ),
    ],
    ids=lambda value: str(getattr(value, "type", "")),
)
def test_everything_else_arrives_as_spark_collects_it(array: Any, values: list[Any]) -> None:
    assert one(array) == Column("a", "object")
    batch = pa.record_batch([array], names=["a"])
    assert same(rows_of(feed([batch], exact=True)), [types.Row("a")(value) for value in values])


UTC = datetime.timezone.utc


@pytest.mark.parametrize(
    ("array", "columns"),
    [
        (pa.array([1, None]), {"a": [1, None]}),  # nulls without a policy are objects
        (pa.array(["a", None]), {"a": ["a", None]}),
        (pa.array([None, None]), {"a": [None, None]}),
        (pa.array([[1], None]), {"a": [[1], None]}),
        (pa.array([[1, None], [1, 2]]), {"a": [[1, None], [1, 2]]}),
        (pa.array([[1], [], [1, 2]]), {"a": [[1], [], [1, 2]]}),
        (pa.array([[[1], []], [], [[2, 3]]]), {"a": [[[1], []], [], [[2, 3]]]}),
        (pa.array([[[1, 2]], [[3, 4], [5, 6]]]), {"a": [[[1, 2]], [[3, 4], [5, 6]]]}),
        (pa.array([["a"], ["é", "c"]]), {"a": [["a"], ["é", "c"]]}),
        (pa.array([[b"a"], [b"b"]]), {"a": [[b"a"], [b"b"]]}),
        (pa.array([datetime.date(1970, 1, 3)]), {"a": [2]}),
        (pa.array([datetime.date(1970, 1, 3)], pa.date64()), {"a": [2]}),
        (pa.array([[datetime.date(1970, 1, 3)], []]), {"a": [[2], []]}),
        (pa.array([decimal.Decimal("1.25")]), {"a": [1.25]}),
        (pa.array([datetime.datetime(1970, 1, 1, 0, 0, 1)]), {"a": [1_000_000]}),
        (pa.array([datetime.datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)], pa.timestamp("ns", "Asia/Tokyo")), {"a": [1_000_000]}),
        (pa.array([datetime.timedelta(seconds=1)], pa.duration("s")), {"a": [1_000_000]}),
        (pa.array([{"x": 1, "y": {"z": "u"}}, {"x": 2, "y": {"z": "v"}}]), {"a.x": [1, 2], "a.y.z": ["u", "v"]}),
        (pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int32())), {"a.key": [["k"], []], "a.value": [[1], []]}),
    ],
    ids=lambda value: str(getattr(value, "type", "")),
)
def test_column_mode_has_columns_for_most_types(array: Any, columns: dict[str, list[Any]]) -> None:
    batch = pa.record_batch([array], names=["a"])
    slots = feed([batch, batch], exact=False)
    assert {name: column_of(slots, name) for name in slots[0][0].schema.names} == {n: v + v for n, v in columns.items()}


def test_nulls_of_every_kind_of_column_follow_their_policy() -> None:
    batch = pa.RecordBatch.from_pydict({
        "i": pa.array([1, None, 3]), "s": pa.array(["a", None, "c"]), "b": pa.array([None, b"x", b""]),
        "v": pa.array([[1.0, 2.0], None, [3.0, 4.0]]), "r": pa.array([[1], None, [2, 3]]), "n": pa.array([None, None, None]),
        "t": pa.array([["a"], None, []]), "d": pa.array([{"x": 1}, None, {"x": 3}]),
    })  # fmt: skip
    fills = {"i": -1, "s": "?", "b": "\xff", "v": 0.5, "n": 7, "d.x": 9}
    nulls = {name: Nulls(fill=value) for name, value in fills.items()} | {"*": Nulls(mask=True)}
    for size in (2048, 700):  # the second takes one or two rows in a slot
        slots = feed([batch, batch.slice(1)], exact=False, nulls=nulls, slot_bytes=size, heap_per_row=30)
        got = {name: column_of(slots, name)[:3] for name in ("i", "s", "b", "v", "r", "t", "d.x")}
        assert got == {
            "i": [1, -1, 3], "s": ["a", "?", "c"], "b": [b"\xff", b"x", b""], "v": [[1.0, 2.0], [0.5, 0.5], [3.0, 4.0]],
            "r": [[1], [], [2, 3]], "t": [["a"], [], []], "d.x": [1, 9, 3],
        }  # fmt: skip
        assert column_of(slots, "r_mask") == column_of(slots, "t_mask") == [True, False, True, False, True]


@given(
    st.integers(1, 3).flatmap(lambda n: st.tuples(st.lists(st.integers(1, 4), min_size=n, max_size=n), st.permutations(range(n)))),
    st.sampled_from(["int16", "float32"]),
    st.lists(st.booleans(), min_size=1, max_size=8),
    st.data(),
)
@thorough
def test_tensor_columns_have_their_shape(form: Any, dtype: str, valid: list[bool], data: st.DataObject) -> None:
    stored, order = form
    begin = data.draw(st.integers(0, len(valid) - 1))
    assume(any(valid[begin:]))
    numbers = np.arange(len(valid) * int(np.prod(stored)), dtype=dtype).reshape(-1, *stored)
    kind = pa.from_numpy_dtype(numbers.dtype)
    lists = [row.ravel().tolist() if ok else None for row, ok in zip(numbers, valid, strict=True)]
    array = pa.ExtensionArray.from_storage(
        pa.fixed_shape_tensor(kind, stored, permutation=order), pa.array(lists, pa.list_(kind, int(np.prod(stored))))
    )
    batch = pa.record_batch([array], names=["a"]).slice(begin)
    expected = numbers.transpose(0, *(dimension + 1 for dimension in order))[begin:]
    values = column_of(feed([batch], exact=False, nulls={"*": Nulls(fill=7)}))
    wanted = [row if ok else np.full_like(row, 7) for row, ok in zip(expected, valid[begin:], strict=True)]
    assert np.array_equal(values, wanted)
    got = [row.a for row in rows_of(feed([batch], exact=True))]
    assert got == [row.tolist() if ok else None for row, ok in zip(expected, valid[begin:], strict=True)]


def test_string_and_binary_views() -> None:
    if not hasattr(pa, "string_view"):
        pytest.skip("this pyarrow has no views")
    array = pa.array(["short", "a string that is longer than twelve bytes"], pa.string_view())
    assert one(array) == Column("a", "string")
    batch = pa.record_batch([array, pa.array([b"x", b"y" * 20], pa.binary_view())], names=["a", "b"])
    assert same(rows_of(feed([batch], exact=True)), spark_rows(batch))


# ---- any batch, any slice ----

leaf = st.sampled_from([pa.int8(), pa.int64(), pa.uint32(), pa.float32(), pa.float64(), pa.bool_(), pa.float16()])
text = st.sampled_from([pa.string(), pa.large_string(), pa.binary(), pa.large_binary()])


def values_for(kind: Any) -> st.SearchStrategy:
    """Values that an Arrow type holds exactly."""
    if pa.types.is_boolean(kind):
        return st.booleans()
    if pa.types.is_floating(kind):
        return st.floats(width=kind.bit_width)
    if pa.types.is_integer(kind):
        low = 0 if str(kind).startswith("u") else -(2 ** (kind.bit_width - 1))
        return st.integers(low, low + 2**kind.bit_width - 1)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return st.text(max_size=20)
    return st.binary(max_size=20)


@st.composite
def columns(draw: st.DrawFn, rows: int) -> Any:
    """One column with so many rows."""
    sort = draw(st.sampled_from(["plain", "text", "list", "fixed list", "nested", "nullable", "ragged", "dictionary"]))
    kind = draw(text if sort in ("text", "dictionary") else leaf)
    width, inner = draw(st.integers(0, 3)), values_for(kind)
    if sort == "list":
        kind, inner = pa.list_(kind), st.lists(inner, min_size=width, max_size=width)
    elif sort == "fixed list":
        kind, inner = pa.list_(kind, width), st.lists(inner, min_size=width, max_size=width)
    elif sort == "nested":
        kind = pa.list_(pa.large_list(kind))
        inner = st.lists(st.lists(inner, min_size=2, max_size=2), min_size=width, max_size=width)
    elif sort == "ragged":
        kind, inner = pa.list_(kind), st.lists(inner, max_size=3)
    elif sort == "nullable":
        inner = st.none() | inner
    if pa.types.is_float16(kind):
        inner = inner.map(lambda value: value if value is None else np.float16(value))
    elif kind in (pa.list_(pa.float16()), pa.list_(pa.float16(), width), pa.list_(pa.large_list(pa.float16()))):
        kind, inner = pa.int16(), values_for(pa.int16())  # pyarrow makes no lists of Python halves
    array = pa.array(draw(st.lists(inner, min_size=rows, max_size=rows)), kind)
    return array.dictionary_encode() if sort == "dictionary" else array


@st.composite
def batches(draw: st.DrawFn) -> Any:
    """A record batch, often a slice out of a larger one."""
    rows = draw(st.integers(1, 40))
    arrays = [draw(columns(rows)) for _ in range(draw(st.integers(0, 4)))]
    if not arrays:
        arrays = [pa.array(range(rows))]
    whole = pa.record_batch(arrays, names=[f"n{i}" for i in range(len(arrays))])
    start = draw(st.integers(0, rows - 1))
    return whole.slice(start, draw(st.integers(1, rows - start)))


@given(batches(), st.sampled_from([0.0, 20.0, 500.0]), st.sampled_from([2048, 1 << 16]))
@thorough
def test_every_value_of_every_slice_arrives(batch: Any, heap_per_row: float, slot_bytes: int) -> None:
    slots = feed([batch], exact=True, heap_per_row=heap_per_row, slot_bytes=slot_bytes)
    assert same(rows_of(slots), spark_rows(batch))
    for name in batch.schema.names:
        got = column_of(feed([batch], exact=False, heap_per_row=heap_per_row, slot_bytes=slot_bytes), name)
        wanted = [float(value) if isinstance(value, np.float16) else value for value in batch.column(name).to_pylist()]
        assert same(got, wanted)


@given(st.lists(st.tuples(st.text(max_size=30), st.floats(), st.binary(max_size=9)), min_size=1, max_size=60), st.data())
@thorough
def test_batches_share_slots(rows: list[Any], data: st.DataObject) -> None:
    """Many batches of one schema, cut anywhere, fill slots one behind the other; rows can follow them."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=5)))
    whole = pa.record_batch([list(column) for column in zip(*rows, strict=True)], names=["s", "f", "b"])
    pieces = [whole.slice(a, b - a) for a, b in zip([0, *cuts], [*cuts, len(rows)], strict=True) if b > a]
    slots = feed(pieces, exact=True, slot_bytes=2048)
    assert same(rows_of(slots), spark_rows(whole))
    form, memory, count = slots[-1]
    packer = RowPacker(form.schema, exact=True)
    packer.bind(memory, form, count)
    more = spark_rows(whole.slice(0, 1))
    packer.pack_from(iter(more), 60)
    if packer.rows > count:  # the slot had room
        assert same(decode.rows(form, memory, 0, count + 1), spark_rows(whole)[-count:] + more)


def test_a_schema_widens_over_batches() -> None:
    pieces = [
        pa.RecordBatch.from_pydict({"a": pa.array([1, 2]), "l": pa.array([[1.0], [2.0]])}),
        pa.RecordBatch.from_pydict({"a": pa.array([None, 3]), "l": pa.array([[1.0], [2.0]])}),
        pa.RecordBatch.from_pydict({"a": pa.array([4, 5]), "l": pa.array([[1.0, 2.0], []])}),
    ]
    expected = [row for piece in pieces for row in spark_rows(piece)]
    assert same(rows_of(feed(pieces, exact=True)), expected)
    assert column_of(feed(pieces, exact=False)) == [row.a for row in expected]


def test_a_schema_of_rows_and_one_of_batches_meet() -> None:
    batch = pa.RecordBatch.from_pydict({"label": pa.array([1, 2]), "image": pa.array([[0.5, 1.0], [1.5, 2.0]])})
    row = types.Row(label=1, image=[0.5, 1.0])
    for exact in (True, False):
        assert infer(row, exact=exact) == from_arrow(batch.schema, batch, exact=exact)


def test_declared_casts_are_checked() -> None:
    batch = pa.RecordBatch.from_pydict({"a": pa.array([1, 2, 255]), "f": pa.array([[0.1, 1e300]] * 3)})
    ((form, memory, _),) = feed([batch], exact=False, spec={"a": ("uint8", None), "f": ("float32", (2,))})
    out = decode.columns(form, memory, 0, 3)
    assert same(out["a"], np.array([1, 2, 255], np.uint8))
    assert same(out["f"], np.array([[0.1, np.inf]] * 3, np.float32))
    large = pa.RecordBatch.from_pydict({"a": pa.array([1, 256]), "f": pa.array([[0.1, 0.2]] * 2)})
    with pytest.raises(SchemaMismatch, match="column 'a': expected uint8, from 0 to 255, the batch"):
        feed([large], exact=False, spec={"a": ("uint8", None)})


def test_what_does_not_fit_the_layout_is_a_mismatch() -> None:
    batch = pa.RecordBatch.from_pydict({"a": pa.array([1.5, 2.5])})
    form = layout(Schema("row", (Column("a", "fixed", "int64"),)), 8, 4096)
    with pytest.raises(SchemaMismatch, match=r"column 'a': expected int64, from -9.*, the batch has float64"):
        pack_batch(form, slot(4096), 0, 0, batch, 0, exact=False)
    form = layout(Schema("row", (Column("b", "fixed", "float64"),)), 8, 4096)
    with pytest.raises(SchemaMismatch, match=r"has the columns \['a'\], the feed has \['b'\]"):
        pack_batch(form, slot(4096), 0, 0, batch, 0, exact=False)
    form = layout(Schema("row", (Column("a", "fixed", "float64", (), "float"),)), 8, 4096)
    with pytest.raises(SchemaMismatch, match="column 'a': expected float64"):
        pack_batch(form, slot(4096), 0, 0, pa.RecordBatch.from_pydict({"a": pa.array([1.5], pa.float32())}), 0, exact=True)
    with pytest.raises(ValueError, match="the buffer has 100 bytes"):
        pack_batch(form, slot(4096)[:100], 0, 0, batch, 0, exact=True)


def test_equal_names() -> None:
    batch = pa.record_batch([pa.array([1]), pa.array([2])], names=["a", "a"])
    assert same(rows_of(feed([batch], exact=True)), [types.Row("a", "a")(1, 2)])
    with pytest.raises(SchemaMismatch, match="several columns are called 'a'"):
        from_arrow(batch.schema, batch, exact=False)


def test_full_slots_and_rows_that_are_too_large() -> None:
    batch = pa.RecordBatch.from_pydict({"a": pa.array(["x" * 1500, "y" * 1500, "z" * 1500, "w" * 5000])})
    form = layout(from_arrow(batch.schema, batch, exact=False), 8, 4096)
    memory = slot(4096)
    assert pack_batch(form, memory, 0, 0, batch, 0, exact=False) == (2, 3000)
    assert pack_batch(form, memory, 2, 3000, batch, 2, exact=False) == (0, 3000)
    assert pack_batch(form, memory, 2, 3000, batch, 4, exact=False) == (0, 3000), "nothing is left"
    with pytest.raises(RowTooLarge, match="one row needs 8 bytes in the columns and 5000 in the heap; a slot has 4096"):
        pack_batch(form, memory, 0, 0, batch, 3, exact=False)
    tight = layout(form.schema, 400, 4096)
    assert pack_batch(tight, memory, 0, 0, batch, 0, exact=False) == (0, 0), "a roomier layout is asked for"
    full = layout(from_arrow(batch.schema, batch.slice(0, 1), exact=False), 1, 4096)
    assert pack_batch(full, memory, 1, 1500, batch, 1, exact=False) == (0, 1500)


def test_batches_without_columns_and_without_rows() -> None:
    empty = pa.record_batch([pa.array([], pa.list_(pa.float64()))], names=["a"])
    assert one(empty.column(0)) == Column("a", "object"), "nobody knows how long the lists will be"
    assert feed([empty], exact=True) == []
    assert one(pa.array([], pa.float64())) == Column("a", "fixed", "float64", (), "float")


def test_null_strings_do_not_stop_objects() -> None:
    batch = pa.RecordBatch.from_pydict({"a": pa.array(["x", None, "y"] * 200)})
    assert same(rows_of(feed([batch], exact=True, slot_bytes=1024)), spark_rows(batch))
