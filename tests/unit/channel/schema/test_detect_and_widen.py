"""Inference and the lattice: what a row is taken for, and what two views of a feed become."""

from __future__ import annotations

import array
import datetime
import decimal
import itertools
import re
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.support.rows import Point, anything, arrays, drive, flat, numbers, same, scalars, slot, values
from tfos_fast.channel.codec import decode
from tfos_fast.channel.codec.layout import plan
from tfos_fast.channel.schema.columns import OBJECT_ROWS, Column, Schema, describe
from tfos_fast.channel.schema.detect import infer
from tfos_fast.channel.schema.widen import Nulls, apply_nulls, apply_spec, join, settle
from tfos_fast.errors import SchemaMismatch
from tfos_fast.native.row_packer import END, RowPacker
from tfos_fast.values.dtypes import DTYPES, as_array, can_cast, cast_values, dtype_of, promote

relaxed = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))


def only(row: Any, *, exact: bool) -> Column:
    """The only column of a bare row."""
    schema = infer(row, exact=exact)
    assert schema.structure == "bare"
    return schema.columns[0]


def accepts(schema: Schema, row: Any, *, exact: bool, cast: bool = False) -> bool:
    """Whether the packer takes the row. Columns with nulls and no policy hold objects."""
    schema = schema if exact else apply_nulls(schema, {})
    packer = RowPacker(schema, exact=exact, cast=cast)
    form = plan(schema, 1 << 16, batch=1, heap_per_row=1000)
    packer.bind(slot(1 << 16), form)
    return packer.pack_from(iter([row]), 60) == END


@pytest.mark.parametrize(
    ("value", "dtype", "shape", "python"),
    [
        (1.5, "float64", (), "float"),
        (3, "int64", (), "int"),
        (True, "bool", (), "bool"),
        (np.float32(1), "float32", (), "npscalar"),
        (np.float64(1), "float64", (), "npscalar"),
        (np.zeros((2, 3), np.uint8), "uint8", (2, 3), "ndarray"),
        (np.array(1, np.int16), "int16", (), "ndarray"),
        (np.zeros(3, np.complex64), "complex64", (3,), "ndarray"),
    ],
)
def test_numbers_are_fixed_columns(value: Any, dtype: str, shape: tuple[int, ...], python: str) -> None:
    assert only(value, exact=True) == Column("c0", "fixed", dtype, shape, python)
    assert only(value, exact=False) == Column("c0", "fixed", dtype, shape)


@pytest.mark.parametrize(
    ("value", "dtype", "shape", "python"),
    [
        ([1.0, 2.0], "float64", (2,), "list/float"),
        ((1, 2), "int64", (2,), "tuple/int"),
        ([(True,), (False,)], "bool", (2, 1), "list/tuple/bool"),
        ([], "float64", (0,), "list/float"),
        ([[], []], "float64", (2, 0), "list/list/float"),
    ],
)
def test_regular_sequences_are_fixed_columns(value: Any, dtype: str, shape: tuple[int, ...], python: str) -> None:
    assert infer((value,), exact=True).columns[0] == Column("c0", "fixed", dtype, shape, python)
    assert infer((value,), exact=False).columns[0] == Column("c0", "fixed", dtype, shape)


@pytest.mark.parametrize(
    "value",
    [
        [1, 2.0],
        [1, True],
        [[1], (2,)],
        [np.float64(1)],
        2 + 1j,
        np.zeros(2, ">f8"),
        np.str_("x"),
        np.bytes_(b"x"),
        np.longlong(1),
        array.array("d", [1.0]),
        np.zeros(2).view(np.recarray),
    ],
    ids=repr,
)
def test_what_would_not_come_back_equal_is_an_object_in_row_mode(value: Any) -> None:
    assert infer((value,), exact=True).columns[0] == Column("c0", "object")
    assert infer((value,), exact=False).columns[0].kind != "object"


@pytest.mark.parametrize(
    "value",
    [
        [1, "a"],
        [None, 1.0],
        2**63,
        [2**70],
        [2**63, -1],
        {1: 2},
        {"a"},
        "\ud800",
        np.array([None]),
        np.zeros(1, [("a", "f4")]),
        np.ma.masked_array([1.0, 2.0], [True, False]),
        np.longdouble(1),
        memoryview(b"x"),
    ],
    ids=lambda value: repr(value).partition(" at 0x")[0],  # the same in each process that collects it
)
def test_what_is_no_array_is_an_object_in_both_modes(value: Any) -> None:
    for exact in (True, False):
        assert infer((value,), exact=exact).columns[0] == Column("c0", "object")


def test_text_and_bytes() -> None:
    assert only("é", exact=True) == only("é", exact=False) == Column("c0", "string")
    assert only(b"x", exact=True) == only(b"x", exact=False) == Column("c0", "bytes")
    assert only(bytearray(b"x"), exact=True) == Column("c0", "bytes", python="bytearray")
    assert only(bytearray(b"x"), exact=False) == Column("c0", "bytes")
    assert only(np.str_("x"), exact=False) == Column("c0", "string")


def test_structures() -> None:
    assert infer((1, "a"), exact=True).structure == "tuple"
    assert infer([1, "a"], exact=True).structure == "list"
    assert infer([1, "a"], exact=False).structure == "tuple", "the reader of columns does not see the difference"
    assert infer({"b": 1, "a": 2}, exact=True).names == ("b", "a")
    assert infer((1, 2), exact=False).names == ("c0", "c1")
    assert infer({1: 2}, exact=True) == OBJECT_ROWS
    assert infer(Point(1, 2), exact=True) == OBJECT_ROWS
    assert infer(Point(1, 2), exact=False) == infer({"x": 1, "y": 2}, exact=False).__class__(
        "row", infer({"x": 1, "y": 2}, exact=False).columns
    )
    assert infer((), exact=True) == Schema("tuple", ())


def test_spark_rows() -> None:
    types = pytest.importorskip("pyspark.sql.types")
    for exact in (True, False):
        schema = infer(types.Row(label=1, image=[1.0]), exact=exact)
        assert schema.structure == "row"
        assert schema.names == ("label", "image")
    twice = types.Row("a", "a")(1, 2)
    assert infer(twice, exact=True).names == ("a", "a")
    with pytest.raises(SchemaMismatch, match="several columns are called 'a'"):
        infer(twice, exact=False)


def test_long_rows_of_numbers_are_one_column_in_row_mode() -> None:
    assert only([0.5] * 784, exact=True) == Column("c0", "fixed", "float64", (784,), "list/float")
    assert len(infer([0.5] * 784, exact=False).columns) == 784
    assert infer([0.5, "x"] * 2000, exact=True) == OBJECT_ROWS


@given(anything, anything, st.booleans())
@relaxed
def test_join_holds_both_is_commutative_and_idempotent(a: Any, b: Any, exact: bool) -> None:
    one, two = infer(a, exact=exact), infer(b, exact=exact)
    try:
        both = join(one, two, exact=exact)
    except SchemaMismatch:
        assert not exact
        return
    assert join(both, both, exact=exact) == both
    assert join(both, one, exact=exact) == join(both, two, exact=exact) == both
    if one.names == two.names:
        assert join(two, one, exact=exact) == both
    assert accepts(both, a, exact=exact)
    assert accepts(both, b, exact=exact)


@given(st.lists(anything, max_size=5))
@relaxed
def test_a_row_fits_what_is_inferred_from_it(rows: list[Any]) -> None:
    for row in rows:
        for exact in (True, False):
            assert accepts(infer(row, exact=exact), row, exact=exact)


@given(values | numbers | flat | arrays | scalars, values | numbers | flat | arrays | scalars, st.booleans())
@relaxed
def test_the_packer_takes_a_row_only_if_join_changes_nothing(a: Any, b: Any, exact: bool) -> None:
    """A misfit always widens: otherwise a feeder would turn in a circle."""
    schema = infer((a,), exact=exact)
    if not accepts(schema, (b,), exact=exact):
        assert join(schema, infer((b,), exact=exact), exact=exact) != schema


LISTS = [
    ([[1], [1, 2]], Column("c0", "ragged", "int64", (-1, -1))),
    ([[1], []], Column("c0", "ragged", "int64", (-1, -1))),
    ([[[1, 2]], [[3, 4], [5, 6]]], Column("c0", "ragged", "int64", (-1, -1, 2))),
    ([[1], [0.5, True]], Column("c0", "ragged", "float64", (-1, -1))),
    (["a", "b"], Column("c0", "ragged", "string", (-1,))),
    (np.array(["a"]), Column("c0", "ragged", "string", (-1,))),
    ([[b"a"], [b"", b"c"]], Column("c0", "ragged", "bytes", (-1, -1))),
]


@pytest.mark.parametrize(("value", "column"), LISTS, ids=repr)
def test_lists_of_different_lengths_are_ragged_columns(value: Any, column: Column) -> None:
    assert infer((value,), exact=False).columns == (column,)
    assert infer((value,), exact=True).columns[0].kind in ("object", "fixed")


def test_special_values_have_documented_numbers() -> None:
    day, hour = datetime.date(1970, 1, 3), datetime.timedelta(hours=1)
    instant = datetime.datetime(1970, 1, 1, 1, tzinfo=datetime.timezone(hour))
    vectors = pytest.importorskip("pyspark.ml.linalg")
    for value, number in [
        (day, np.int32(2)),
        (instant, np.int64(0)),
        (instant.astimezone().replace(tzinfo=None), np.int64(0)),
        (hour, np.int64(3_600_000_000)),
        (decimal.Decimal("1.25"), np.float64(1.25)),
        (np.datetime64("1970-01-02", "D"), np.int64(86_400_000_000)),
        (np.array(["1970-01-01T00:00:01"], "M8[s]"), np.array([1_000_000])),
        (vectors.Vectors.dense([1, 2]), np.array([1.0, 2.0])),
        (vectors.Vectors.sparse(3, [1], [5.0]), np.array([0.0, 5.0, 0.0])),
    ]:
        assert infer((value,), exact=True).columns[0].kind == "object"
        ((form, memory, count),) = drive([(value,)], exact=False)
        got = decode.columns(form, memory, 0, count)["c0"][0]
        assert same(np.asarray(got), np.asarray(number)), value
    assert infer((np.datetime64("NaT"),), exact=False).columns[0] == Column("c0", "null", nulls="seen")


def test_nulls_follow_their_policy() -> None:
    some = join(infer((None, 1), exact=False), infer((1.5, None), exact=False), exact=False)
    assert [(c.kind, c.dtype, c.nulls) for c in some.columns] == [("fixed", "float64", "seen"), ("fixed", "int64", "seen")]
    assert [c.kind for c in apply_nulls(some, {}).columns] == ["object", "object"]
    ruled = apply_nulls(some, {"c0": Nulls(mask=True), "*": Nulls(fill=-1)})
    assert [(c.nulls, c.fill) for c in ruled.columns] == [("mask", None), ("fill", -1)]
    assert [c.name for c in ruled.outputs] == ["c0", "c0_mask", "c1"]
    assert join(ruled, infer((1, 2), exact=False), exact=False) == join(ruled, ruled, exact=False) == ruled
    unseen = apply_nulls(infer((None, "x"), exact=False), {"*": Nulls(fill=7)})
    assert [(c.kind, c.nulls) for c in unseen.columns] == [("null", "fill"), ("string", "")], "7 is no text, and no text was null"
    assert settle(unseen).columns[0] == Column("c0", "fixed", "int64", nulls="fill", fill=7)


@pytest.mark.parametrize(
    ("row", "policies", "message"),
    [
        ((1, None), {"c7": Nulls()}, "nulls names 'c7'; the feed has the columns c0, c1"),
        ((1, None), {"c0": Nulls(fill=0.5)}, "column 'c0': its nulls are to become 0.5, the rows have int64"),
        ((1, None), {"c0": Nulls(fill="x")}, "its nulls are to become 'x'"),
        (([1, 2], [[1], []]), {"c1": Nulls(fill=0)}, "column 'c1': its nulls are to become 0, the rows have int64"),
        ({"a": None, "a_mask": 1}, {"a": Nulls(mask=True)}, "the mask of a column would be called 'a_mask'"),
    ],
)
def test_a_wrong_policy_says_what_is_wrong(row: Any, policies: dict, message: str) -> None:
    with pytest.raises(SchemaMismatch, match=re.escape(message)):
        apply_nulls(infer(row, exact=False), policies)


@pytest.mark.parametrize(
    ("a", "b", "dtype", "shape"),
    [
        ([1], [1, 2], "int64", (-1,)),
        ([1], [0.5, 1], "float64", (-1,)),
        ([], [1, 2], "int64", (-1,)),
        ([[1, 2]], [[1, 2], [3, 4]], "int64", (-1, 2)),
        ([[1, 2]], [[1, 2, 3]], "int64", (-1, -1)),
        ([[1], [1, 2]], [[1]], "int64", (-1, -1)),
        (["a"], [], "string", (-1,)),
    ],
)
def test_lengths_that_differ_make_a_column_ragged(a: Any, b: Any, dtype: str, shape: tuple[int, ...]) -> None:
    for x, y in ((a, b), (b, a)):
        (column,) = join(infer((x,), exact=False), infer((y,), exact=False), exact=False).columns
        assert column == Column("c0", "ragged", dtype, shape)


@pytest.mark.parametrize(
    ("a", "b", "dtype"),
    [
        (1, 1.5, "float64"),
        (True, 1, "int64"),
        (True, 1.5, "float64"),
        (np.int8(1), np.uint8(1), "int16"),
        (np.float32(1), 1.5, "float64"),
        (np.float32(1), np.int32(1), "float64"),
        (np.uint64(1), 1.5, "float64"),
        (1j, 1.5, "complex128"),
        (1, np.uint64(1), ""),
        (np.int8(1), np.uint64(1), ""),
        (1, "x", ""),
        (1, [1], ""),
        ("x", b"x", ""),
        (["x"], [1], ""),
        ([[1]], [1], ""),
    ],
)
def test_columns_promote_only_where_it_is_safe(a: Any, b: Any, dtype: str) -> None:
    for x, y in ((a, b), (b, a)):
        (column,) = join(infer((x,), exact=False), infer((y,), exact=False), exact=False).columns
        assert column.dtype == dtype
        assert column.kind == ("fixed" if dtype else "object")


def test_numbers_of_several_types_meet_in_any_order() -> None:
    """int8, uint8 and float16 were float16 or float32, as the first two of them were."""

    def meet(a: str, b: str) -> str:
        return "" if "" in (a, b) else promote(a, b) or ""

    for a, b, c in itertools.product(DTYPES, repeat=3):
        assert meet(a, b) == meet(b, a)
        if "uint64" not in (a, b, c):
            assert meet(meet(a, b), c) == meet(a, meet(b, c)), (a, b, c)
        both = promote(a, b)
        if both is not None:
            assert can_cast(a, both, cast=False)
            assert np.can_cast(dtype_of(a), dtype_of(both), "safe")
            assert can_cast(a, both, cast=True)


def test_row_mode_widens_a_column_to_objects_and_a_structure_to_bare_objects() -> None:
    assert join(infer((1, 2), exact=True), infer((1, 2.0), exact=True), exact=True).columns == (
        Column("c0", "fixed", "int64", (), "int"),
        Column("c1", "object"),
    )
    for other in ((1,), [1, 2], {"a": 1}, 1, "x", Point(1, 2)):
        assert join(infer((1, 2), exact=True), infer(other, exact=True), exact=True) == OBJECT_ROWS


def test_column_mode_goes_by_the_names_of_columns() -> None:
    base = infer((1, 2), exact=False)
    for other in ((1,), {"a": 1, "b": 2}, 1, Point(1, 2)):
        with pytest.raises(SchemaMismatch, match="rows differ in structure"):
            join(base, infer(other, exact=False), exact=False)
    assert join(base, infer([1, 2], exact=False), exact=False) == base
    rows = [{"x": 1, "y": 2}, {"y": 1.5, "x": 3}, Point(4, 5.5)]
    mixed = infer(rows[0], exact=False)
    for row in rows:
        mixed = join(mixed, infer(row, exact=False), exact=False)
    assert [(c.name, c.dtype) for c in mixed.columns] == [("x", "int64"), ("y", "float64")]
    assert all(accepts(mixed, row, exact=False) for row in rows)
    assert not accepts(mixed, (1, 2), exact=False)
    assert not accepts(mixed, {"x": 1, "z": 2}, exact=False)


def test_a_spec_casts() -> None:
    schema = infer({"image": [0.5] * 4, "label": 3, "name": "x"}, exact=False)
    declared = apply_spec(schema, {"image": ("float32", None), "label": ("uint8", ()), "name": ("string", None)})
    assert [(c.dtype, c.shape) for c in declared.columns] == [("float32", (4,)), ("uint8", ()), ("", ())]
    assert apply_spec(schema, {"image": ("object", None)}).columns[0].kind == "object"
    assert apply_spec(schema, {"label": ("f4", None)}).columns[1].dtype == "float32"
    assert apply_spec(schema, {}) == schema
    assert apply_spec(schema, {"image": ("float32", (-1,))}).columns[0] == Column("image", "ragged", "float32", (-1,))
    lists = infer(([[1], [2, 3]], ["a"], [], None), exact=False)
    declared = apply_spec(lists, {"c0": ("int8", None), "c1": ("string", (-1,)), "c2": ("string", (-1,)), "c3": ("bfloat16", (2,))})
    assert [describe(c) for c in declared.columns] == ["int8[?,?]", "string[?]", "string[?]", "bfloat16[2]"]
    assert apply_spec(infer(b"x", exact=False), {"c0": ("string", None)}).columns[0].kind == "bytes"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"nose": ("float32", None)}, "the spec names 'nose'; the feed has the columns image, label, name"),
        ({"image": ("float32", (5,))}, r"the spec says float32\[5\], the rows have float64\[4\]"),
        ({"image": ("int32", None)}, "would lose values"),
        ({"label": ("bool", None)}, "would lose values"),
        ({"name": ("float32", None)}, "the rows have string"),
        ({"label": ("bytes", None)}, "the spec says bytes, the rows have int64"),
        ({"label": ("flaot32", None)}, "which is none of"),
        ({"label": ("M8[s]", None)}, "which is none of"),
        ({"image": ("float32", (-1, 2))}, r"the spec says float32\[\?,2\], the rows have float64\[4\]"),
        ({"image": ("string", (-1,))}, r"the spec says string\[\?\], the rows have float64\[4\]"),
    ],
)
def test_a_wrong_spec_says_what_is_wrong(spec: dict, message: str) -> None:
    schema = infer({"image": [0.5] * 4, "label": 3, "name": "x"}, exact=False)
    with pytest.raises(SchemaMismatch, match=message):
        apply_spec(schema, spec)


@given(arrays, st.sampled_from(sorted(DTYPES)), st.booleans())
@relaxed
def test_cast_values_keeps_integers_or_refuses(values: np.ndarray, dtype: str, cast: bool) -> None:
    assume(values.dtype.name in DTYPES)
    with np.errstate(all="ignore"):
        out = cast_values(values, dtype, cast=cast)
    if out is None:
        return
    assert out.shape == values.shape
    assert out.dtype == dtype
    assert out.flags.c_contiguous
    if values.dtype.kind in "iu" and out.dtype.kind in "iu":
        assert out.tolist() == values.tolist()


def test_can_cast() -> None:
    assert can_cast("float64", "float32", cast=True)
    assert not can_cast("float64", "float32", cast=False)
    assert can_cast("int64", "float16", cast=True)
    assert not can_cast("float32", "int64", cast=True)
    assert not can_cast("complex64", "float64", cast=True)
    assert not can_cast("uint8", "bool", cast=True)


def test_as_array() -> None:
    assert as_array(array.array("d", [1.0])).tolist() == [1.0]  # type: ignore[union-attr]
    assert as_array([np.float32(1), 2]).dtype == np.float64  # type: ignore[union-attr]
    assert as_array(np.array([1, 2], ">i4")).dtype == np.int32  # type: ignore[union-attr]
    assert as_array([np.int64(2**62), np.uint64(2**63)]) is None, "numpy would round these"
    assert as_array([1e300, 2]).tolist() == [1e300, 2.0]  # type: ignore[union-attr]


def test_schemas_travel() -> None:
    schema = infer({"image": [0.5] * 4, "label": 3, "name": "x", "o": None}, exact=True)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(schema), type=Schema) == schema
    assert hash(schema) == hash(infer({"image": [0.5] * 4, "label": 3, "name": "x", "o": None}, exact=True))


def test_descriptions() -> None:
    assert describe(Column("a", "fixed", "float32", (28, 28))) == "float32[28,28]"
    assert describe(Column("a", "fixed", "int64", (), "int")) == "int64 (int)"
    assert describe(Column("a", "bytes", python="bytearray")) == "bytearray"


NOTHING = [
    [], [[]], *(np.empty(0, name) for name in ("?", "i1", "i8", "u8", "f4", "f8", "c8", "S3", "U2")),
    np.empty((0, 2), "c8"), np.empty((1, 0), "S3"),
]  # fmt: skip


@pytest.mark.parametrize("a", NOTHING, ids=repr)
@pytest.mark.parametrize("b", [*NOTHING, [1.5], ["a"], [[1], []]], ids=repr)
def test_lists_without_items_meet_in_either_order(a: Any, b: Any) -> None:
    """They fit any type; text stays text, or becomes objects where depths differ, but never numbers."""
    one, two = infer((a,), exact=False), infer((b,), exact=False)
    both = join(one, two, exact=False)
    assert join(two, one, exact=False) == both
    assert accepts(both, (a,), exact=False)
    assert accepts(both, (b,), exact=False)
    if any(b is each for each in NOTHING) and any(isinstance(value, np.ndarray) and value.dtype.kind in "SU" for value in (a, b)):
        assert both.columns[0].dtype in ("string", "bytes", "")
    for (form, memory, count), value in zip(drive([(a,)], exact=False) + drive([(b,)], exact=False), (a, b), strict=True):
        older = decode.columns(form, memory, 0, count)
        assert len(decode.convert(older, form.schema, both)["c0"]) == 1, value
