"""Arrow types beside numbers and text: what Spark's ``collect()`` gives in row mode, and the numbers of column mode."""

from __future__ import annotations

import base64
import datetime
import decimal
import json
import pickle
from typing import Any

import numpy as np
import pytest

from tests.support.arrow_batches import as_collected, column_of, feed, one
from tests.support.arrow_types import Point, PointType, values
from tests.support.helpers import broker_here, ended, in_thread
from tests.support.rows import same
from tfos_fast.channel import Channel
from tfos_fast.channel.arrow import spark_types
from tfos_fast.channel.arrow.build import to_array
from tfos_fast.channel.arrow.flatten import flatten_batch
from tfos_fast.channel.arrow.spark_types import KEY
from tfos_fast.channel.schema.columns import Column
from tfos_fast.channel.schema.widen import Nulls
from tfos_fast.errors import SchemaMismatch

pa = pytest.importorskip("pyarrow")
types = pytest.importorskip("pyspark.sql.types")
linalg = pytest.importorskip("pyspark.ml.linalg")
mllib = pytest.importorskip("pyspark.mllib.linalg")

UTC = datetime.timezone.utc
MICROSECOND, SECOND = datetime.timedelta(microseconds=1), datetime.timedelta(seconds=1)
DAY_1 = datetime.date(1970, 1, 2)
MASK = {"*": Nulls(mask=True)}


def batch_of(array: Any, kind: Any = None) -> Any:
    """A batch of one column; ``kind`` is what Spark calls its type."""
    batch = pa.record_batch([array], names=["a"])
    if kind is None:
        return batch
    return batch.replace_schema_metadata({KEY: types.StructType([types.StructField("a", kind)]).json().encode()})


def columns(batch: Any, **how: Any) -> dict[str, list[Any]]:
    slots = feed([batch, batch], exact=False, **how)
    names = slots[0][0].schema.names
    found = {name: column_of(slots, name) for name in names}
    half = {name: values[: len(values) // 2] for name, values in found.items()}
    assert repr({name: each + each for name, each in half.items()}) == repr(found)
    return half


# ---- times -------------------------------------------------------------------------------------------------------------------


def nested(array: Any) -> list[tuple[Any, Any]]:
    """The array in other types, and what makes a value of such a column of a value of the array."""
    ones = pa.array(np.arange(len(array) + 1), pa.int32())
    keys = pa.array(["k"] * len(array))
    return [
        (array, lambda value: value),
        (pa.ListArray.from_arrays(ones, array), lambda value: [value]),
        (pa.LargeListArray.from_arrays(ones.cast(pa.int64()), array), lambda value: [value]),
        (pa.FixedSizeListArray.from_arrays(array, 1), lambda value: [value]),
        (pa.StructArray.from_arrays([array], names=["f"]), lambda value: types.Row("f")(value)),
        (pa.MapArray.from_arrays(ones, keys, array), lambda value: {"k": value}),
        (array.dictionary_encode(), lambda value: value),
        (pa.ListArray.from_arrays(ones, array.dictionary_encode()), lambda value: [value]),
    ]


TIMES = [
    # Before 1970, and in part below a microsecond: rounded down.
    (pa.timestamp("ns"), [-1, -1000, -1001, 1, 1999], [-1, -1, -2, 0, 1]),
    (pa.timestamp("us"), [-1, 0, 5], [-1, 0, 5]),
    (pa.timestamp("ms"), [-1, 0, 5], [-1000, 0, 5000]),
    (pa.timestamp("s"), [-62135596800, 253402300799], [-62135596800000000, 253402300799000000]),
    (pa.timestamp("us"), [253402300799999999], [253402300799999999]),
]


@pytest.mark.parametrize(("kind", "raw", "micros"), TIMES, ids=str)
def test_timestamps_without_a_zone(kind: Any, raw: list[int], micros: list[int]) -> None:
    array = pa.array(raw, pa.int64()).view(kind)
    first = datetime.datetime(1970, 1, 1)
    for other, hold in nested(array):
        wanted = [hold(first + datetime.timedelta(microseconds=value)) for value in micros]
        assert same(values(batch_of(other)), wanted)
        assert same(values(batch_of(other).slice(1)), wanted[1:])
    assert columns(batch_of(array)) == {"a": micros}
    assert columns(batch_of(array.dictionary_encode())) == {"a": micros}
    assert columns(batch_of(pa.FixedSizeListArray.from_arrays(array, 1)))["a"] == [[value] for value in micros]


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Kathmandu", "+07:00"])
@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_timestamps_with_a_zone_are_local_and_naive(zone: str, unit: str) -> None:
    factor = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    seconds = [0, 1604208600, 1604212200, -1, -2208988800]
    array = pa.array([value * factor for value in seconds], pa.int64()).view(pa.timestamp(unit, zone))
    wanted = [types.TimestampType().fromInternal(value * 10**6) for value in seconds]
    for other, hold in nested(array):
        assert same(values(batch_of(other)), list(map(hold, wanted)))
    assert columns(batch_of(array)) == {"a": [value * 10**6 for value in seconds]}


def test_the_second_of_two_equal_local_times_keeps_its_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        array = pa.array([1604208600, 1604212200], pa.int64()).cast(pa.timestamp("s", "UTC"))
        got = values(batch_of(array))
        assert [value.fold for value in got] == [0, 1]
        assert {value.replace(fold=0) for value in got} == {datetime.datetime(2020, 11, 1, 1, 30)}
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (pa.array([0, 2**60], pa.int64()).view(pa.timestamp("s")), "column 'a': the value 1152921504606846976 of type timestamp"),
        (pa.array([0, -(2**60)], pa.int64()).view(pa.timestamp("ms", "UTC")), "the value -1152921504606846976 of type timestamp"),
        (pa.array([0, 2**60], pa.int64()).view(pa.duration("s")), "the value 1152921504606846976 of type duration"),
        (pa.array([0, 2**62], pa.int64()).view(pa.date64()), "does not fit 32 bits of days"),
    ],
    ids=str,
)
def test_times_that_do_not_fit_are_an_error(array: Any, message: str) -> None:
    for other in (array, pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), array)):
        with pytest.raises(SchemaMismatch, match=message):
            feed([batch_of(other)], exact=False)
        with pytest.raises(SchemaMismatch, match=message):
            feed([batch_of(other)], exact=True)
    hidden = array.filter(pa.array([True, False]))
    assert columns(batch_of(hidden)) == {"a": [0]}


def test_what_python_has_no_value_for_is_an_error_in_row_mode_alone() -> None:
    year_0, late = -62135596800_000_001, 253402300800_000_000
    for moment in (year_0, late):
        array = pa.array([moment], pa.timestamp("us"))
        with pytest.raises(SchemaMismatch, match=f"column 'a': the moment {moment} microseconds .* is no datetime of Python"):
            values(batch_of(array))
        assert columns(batch_of(array)) == {"a": [moment]}
    with pytest.raises(SchemaMismatch, match="column 'a': the day 2932897 after 1970-01-01 is no date of Python"):
        values(batch_of(pa.array([2932897], pa.int32()).view(pa.date32())))


@pytest.mark.parametrize(
    ("array", "wanted", "numbers"),
    [
        (pa.array([-1, 0], pa.int32()).view(pa.date32()), [datetime.date(1969, 12, 31), datetime.date(1970, 1, 1)], [-1, 0]),
        (pa.array([-1, 86400000], pa.int64()).view(pa.date64()), [datetime.date(1969, 12, 31), datetime.date(1970, 1, 2)], [-1, 1]),
        (pa.array([-1, 1001], pa.int64()).view(pa.duration("ns")), [-MICROSECOND, MICROSECOND], [-1, 1]),
        (pa.array([-3, 3], pa.int64()).view(pa.duration("s")), [-3 * SECOND, 3 * SECOND], [-3000000, 3000000]),
        (pa.array([decimal.Decimal("1.25")], pa.decimal256(50, 2)), [decimal.Decimal("1.25")], [1.25]),
    ],
    ids=str,
)
def test_dates_durations_decimals(array: Any, wanted: list[Any], numbers: list[Any]) -> None:
    for other, hold in nested(array):
        assert same(values(batch_of(other)), list(map(hold, wanted)))
    assert columns(batch_of(array)) == {"a": numbers}
    assert columns(batch_of(pa.ListArray.from_arrays(pa.array([0, len(array)], pa.int32()), array))) == {"a": [numbers]}


@pytest.mark.parametrize(
    ("kind", "texts"),
    [
        (pa.decimal128(10, 2), ["709575.94", "-523173.97", "97328.79", "0", "-0.01", "99999999.99"]),
        (pa.decimal128(38, 18), ["1E-18", "-99999999999999999999.999999999999999999", "9007199254.740993", "0.1", "3"]),
        (pa.decimal128(38, 0), ["9007199254740993", "9007199254740991", "9" * 38, "-18446744073709551616"]),
        (pa.decimal128(38, 37), ["0.1", "-9.9999999999999999999999999999999999999"]),
        (pa.decimal128(5, -3), ["-123E3", "99999E3"]),
        (pa.decimal256(76, 10), ["709575.94", "1" * 60, "-1E-10"]),
    ],
    ids=str,
)
def test_decimals_become_the_nearest_float(kind: Any, texts: list[str]) -> None:
    found = [decimal.Decimal(text) for text in texts]
    wanted = [float(value) for value in found]  # as an RDD's decimals, and Spark's cast to double
    array = pa.array([decimal.Decimal("1").scaleb(-kind.scale), *found], kind).slice(1)
    assert same(columns(batch_of(array)), {"a": wanted})
    holes = pa.array([None, *found, None], kind).slice(0, len(found) + 1)
    assert same(columns(batch_of(pa.ListArray.from_arrays(pa.array([0, len(array)], pa.int32()), array))), {"a": [wanted]})
    assert same(columns(batch_of(holes))["a"], [None, *wanted])


def test_times_of_a_day_are_objects() -> None:
    for kind, raw, wanted in [
        (pa.time64("ns"), 45296789012999, datetime.time(12, 34, 56, 789012)),
        (pa.time64("us"), 86399999999, datetime.time(23, 59, 59, 999999)),
        (pa.time32("ms"), 1001, datetime.time(0, 0, 1, 1000)),
        (pa.time32("s"), 60, datetime.time(0, 1)),
    ]:
        array = pa.array([raw], pa.int32() if pa.types.is_time32(kind) else pa.int64()).view(kind)
        for other, hold in nested(array):
            assert same(values(batch_of(other)), [hold(wanted)])
        assert columns(batch_of(array)) == {"a": [wanted]}


def test_a_union_that_holds_times_is_refused() -> None:
    other, texts = pa.array([5, 6]), pa.array(["a", "b"])
    day, moment = pa.array([DAY_1, DAY_1]), pa.array([1, 2]).cast(pa.timestamp("ns", "UTC"))
    for times in (day, moment, moment.dictionary_encode(), pa.StructArray.from_arrays([day], names=["d"])):
        union = pa.UnionArray.from_sparse(pa.array([0, 1], pa.int8()), [times, other])
        for array in (union, pa.ListArray.from_arrays(pa.array([0, 2], pa.int32()), union)):
            with pytest.raises(SchemaMismatch, match=r"column 'a': values of type sparse_union.*, a union that holds times"):
                values(batch_of(array))
    for plain in (texts, texts.dictionary_encode()):
        assert values(batch_of(pa.UnionArray.from_sparse(pa.array([0, 1], pa.int8()), [plain, other]))) == ["a", 6]


def test_nulls_among_times() -> None:
    array = pa.array([None, 10**9, None], pa.timestamp("ns", "UTC"))
    assert columns(batch_of(array), nulls=MASK) == {"a": [0, 10**6, 0]}
    assert columns(batch_of(array)) == {"a": [None, 10**6, None]}
    assert values(batch_of(array.slice(1))) == [types.TimestampType().fromInternal(10**6), None]
    lists = pa.array([[None], None, [1]], pa.list_(pa.timestamp("ns")))
    assert values(batch_of(lists)) == [[None], None, [datetime.datetime(1970, 1, 1)]]


def test_calendar_intervals_are_refused() -> None:
    array = pa.array([(1, 2, 3)], pa.month_day_nano_interval())
    for exact in (True, False):
        with pytest.raises(SchemaMismatch, match="column 'a': values of type month_day_nano_interval"):
            feed([batch_of(array)], exact=exact)


# ---- Spark's own types -------------------------------------------------------------------------------------------------------

STORED_VECTOR = pa.struct(
    [("type", pa.int8()), ("size", pa.int32()), ("indices", pa.list_(pa.int32())), ("values", pa.list_(pa.float64()))]
)
VECTORS = pa.array(
    [
        {"type": 1, "size": None, "indices": None, "values": [1.0, 2.0, 3.0]},
        {"type": 0, "size": 3, "indices": [0, 2], "values": [4.0, 5.0]},
        {"type": 0, "size": 3, "indices": [], "values": []},
    ],
    STORED_VECTOR,
)
DENSE = [[1.0, 2.0, 3.0], [4.0, 0.0, 5.0], [0.0, 0.0, 0.0]]


@pytest.mark.parametrize("module", [linalg, mllib])
def test_vectors(module: Any) -> None:
    kind, make = module.VectorUDT(), module.Vectors
    wanted = [make.dense([1, 2, 3]), make.sparse(3, [0, 2], [4, 5]), make.sparse(3, [], [])]
    for start, stop in [(0, 3), (1, 2), (0, 1), (2, 3)]:
        batch = batch_of(VECTORS, kind).slice(start, stop - start)
        got = values(batch)
        assert got == wanted[start:stop]
        assert [type(value) for value in got] == [type(value) for value in wanted[start:stop]]
        assert columns(batch) == {"a": DENSE[start:stop]}
    lists = pa.ListArray.from_arrays(pa.array([0, 2, 3], pa.int32()), VECTORS)
    assert values(batch_of(lists, types.ArrayType(kind))) == [wanted[:2], wanted[2:]]
    assert columns(batch_of(lists, types.ArrayType(kind))) == {"a": [DENSE[:2], DENSE[2:]]}
    struct = pa.StructArray.from_arrays([VECTORS], names=["v"])
    of = types.StructType([types.StructField("v", kind)])
    assert values(batch_of(struct, of)) == [types.Row("v")(value) for value in wanted]
    assert columns(batch_of(struct, of)) == {"a.v": DENSE}
    nulls = pa.concat_arrays([VECTORS.slice(0, 1), pa.nulls(1, STORED_VECTOR), VECTORS.slice(1, 1)])
    assert values(batch_of(nulls, kind)) == [wanted[0], None, wanted[1]]
    assert columns(batch_of(nulls, kind), nulls=MASK) == {"a": [DENSE[0], [0, 0, 0], DENSE[1]]}


def test_a_struct_of_a_users_own_is_no_vector() -> None:
    batch = batch_of(VECTORS)
    assert values(batch)[1] == types.Row("type", "size", "indices", "values")(0, 3, [0, 2], [4.0, 5.0])
    assert list(columns(batch)) == ["a.type", "a.size", "a.indices", "a.values"]
    struct = types.StructType([types.StructField(name, types.LongType()) for name in ("type", "size", "indices", "values")])
    assert list(columns(batch_of(VECTORS, struct))) == ["a.type", "a.size", "a.indices", "a.values"]


@pytest.mark.parametrize("module", [linalg, mllib])
def test_matrices(module: Any) -> None:
    kind, make = module.MatrixUDT(), module.Matrices
    wanted = [make.dense(2, 2, [1, 2, 3, 4]), make.sparse(2, 2, [0, 1, 2], [0, 1], [5, 6])]
    names = [field.name for field in kind.sqlType().fields]
    stored = [dict(zip(names, kind.serialize(matrix), strict=True)) for matrix in wanted]
    stored = [{name: list(v) if isinstance(v, np.ndarray) else v for name, v in row.items()} for row in stored]
    of = pa.struct([
        ("type", pa.int8()), ("numRows", pa.int32()), ("numCols", pa.int32()), ("colPtrs", pa.list_(pa.int32())),
        ("rowIndices", pa.list_(pa.int32())), ("values", pa.list_(pa.float64())), ("isTransposed", pa.bool_()),
    ])  # fmt: skip
    batch = batch_of(pa.array(stored, of), kind)
    got = values(batch)
    assert got == wanted
    assert [type(value) for value in got] == [type(value) for value in wanted]
    assert columns(batch) == {"a": [[[1, 3], [2, 4]], [[5, 0], [0, 6]]]}
    nulls = batch_of(pa.array([None, *stored], of), kind)
    assert values(nulls) == [None, *wanted]
    assert columns(nulls, nulls=MASK) == {"a": [[[0, 0], [0, 0]], [[1, 3], [2, 4]], [[5, 0], [0, 6]]]}


class MomentType(types.UserDefinedType):
    """Moments, stored as structs of a timestamp and a date."""

    @classmethod
    def sqlType(cls) -> Any:
        return types.StructType([types.StructField("at", types.TimestampType()), types.StructField("day", types.DateType())])

    @classmethod
    def module(cls) -> str:
        return __name__

    def deserialize(self, datum: Any) -> Any:
        return ("moment", datum.at, datum.day)


def test_types_of_users_are_their_own_values_in_row_mode_and_their_storage_in_columns() -> None:
    array = pa.array([[1.0, 2.0], [3.0, 4.0]])
    batch = batch_of(array, PointType())
    assert values(batch) == [Point(1, 2), Point(3, 4)]
    assert columns(batch) == {"a": [[1, 2], [3, 4]]}
    some = batch_of(pa.array([[1.0, 2.0], None]), PointType())
    assert values(some) == [Point(1, 2), None]
    assert columns(some, nulls=MASK) == {"a": [[1, 2], [0, 0]]}
    lists = batch_of(pa.array([[[1.0, 2.0]], []]), types.ArrayType(PointType()))
    assert values(lists) == [[Point(1, 2)], []]
    assert columns(lists) == {"a": [[[1, 2]], []]}
    day, at = datetime.date(2024, 2, 29), datetime.datetime(2024, 2, 29, 12, tzinfo=UTC)
    moments = pa.array([{"at": at, "day": day}], pa.struct([("at", pa.timestamp("us", "UTC")), ("day", pa.date32())]))
    local = at.astimezone().replace(tzinfo=None)
    assert values(batch_of(moments, MomentType())) == [("moment", local, day)]
    assert columns(batch_of(moments, MomentType())) == {"a.at": [1709208000000000], "a.day": [19782]}
    inside = pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), moments)
    assert values(batch_of(inside, types.ArrayType(MomentType()))) == [[("moment", local, day)]]
    assert columns(batch_of(inside, types.ArrayType(MomentType()))) == {"a": [[("moment", local, day)]]}
    mapped = pa.MapArray.from_arrays(pa.array([0, 1], pa.int32()), pa.array(["k"]), moments)
    assert values(batch_of(mapped, types.MapType(types.StringType(), MomentType()))) == [{"k": ("moment", local, day)}]


def test_a_users_class_that_is_not_there_is_named() -> None:
    batch = batch_of(pa.array([[1.0, 2.0]]), PointType())
    text = batch.schema.metadata[KEY].decode().replace(f"{PointType.__module__}.PointType", "gone_away.PointType")
    batch = batch.replace_schema_metadata({KEY: text.encode()})
    with pytest.raises(SchemaMismatch, match=r"column 'a': values of Spark's type gone_away.PointType cannot be made here"):
        values(batch)
    assert columns(batch) == {"a": [[1, 2]]}


def test_spark_marks_variants_and_geometries() -> None:
    if not hasattr(types, "VariantVal"):
        pytest.skip("this Spark has no VARIANT")

    def marked(first: Any, second: Any, name: str, value: dict[str, Any]) -> Any:
        kind = pa.struct([first, pa.field(*second, metadata={name: "true"})])
        return pa.array([value, None], kind)

    variant = marked(("value", pa.binary()), ("metadata", pa.binary()), "variant", {"value": b"\x0c\x01", "metadata": b"\x01\0\0"})
    for batch in (batch_of(variant), batch_of(variant, types.VariantType())):
        got = values(batch)
        assert isinstance(got[0], types.VariantVal)
        assert (got[0].toPython(), got[1]) == (1, None)
        assert columns(batch)["a"][0].toPython() == 1
    with_field = pa.StructArray.from_arrays([variant], names=["v"])
    assert values(batch_of(with_field))[0].v.toPython() == 1
    lists = pa.ListArray.from_arrays(pa.array([0, 2], pa.int32()), variant)
    assert values(batch_of(lists))[0][0].toPython() == 1
    if hasattr(types, "Geometry"):
        point = marked(("srid", pa.int32()), ("wkb", pa.binary()), "geometry", {"srid": 4326, "wkb": b"\x01\x02"})
        (got, none) = values(batch_of(point))
        assert (type(got), got.srid, bytes(got.wkb), none) == (types.Geometry, 4326, b"\x01\x02", None)


# ---- encodings, lists, structs -----------------------------------------------------------------------------------------------


def test_views_with_nulls() -> None:
    if not hasattr(pa, "string_view"):
        pytest.skip("this pyarrow has no views")
    long = "a string that is longer than twelve bytes"
    texts = pa.array(["short", None, long], pa.string_view())
    assert values(batch_of(texts)) == ["short", None, long]
    assert columns(batch_of(texts), nulls=MASK) == {"a": ["short", "", long]}
    assert columns(batch_of(texts), nulls={"a": Nulls(fill="?")}) == {"a": ["short", "?", long]}
    raw = pa.array([b"\xff", None, b"y" * 20], pa.binary_view())
    assert values(batch_of(raw)) == [as_collected(b"\xff"), None, as_collected(b"y" * 20)]
    assert columns(batch_of(raw), nulls=MASK) == {"a": [b"\xff", b"", b"y" * 20]}
    lists = pa.array([["a", None], [long]], pa.list_(pa.string_view()))
    assert values(batch_of(lists)) == [["a", None], [long]]
    assert columns(batch_of(lists.slice(1))) == {"a": [[long]]}


def test_lists_of_every_form() -> None:
    numbers = [[1, 2], None, [3, 4], []]
    kinds = [pa.list_(pa.int16()), pa.large_list(pa.int16())]
    kinds += [getattr(pa, name)(pa.int16()) for name in ("list_view", "large_list_view") if hasattr(pa, name)]
    for kind in kinds:
        batch = batch_of(pa.array(numbers, kind))
        assert values(batch) == numbers
        assert columns(batch, nulls=MASK) == {"a": [[1, 2], [], [3, 4], []]}
        assert columns(batch.slice(2, 1)) == {"a": [[3, 4]]}
    fixed = batch_of(pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int16(), 2)))
    assert values(fixed) == [[1, 2], None, [3, 4]]
    assert columns(fixed, nulls=MASK) == {"a": [[1, 2], [0, 0], [3, 4]]}
    holes = batch_of(pa.array([[1, None], [3, 4]], pa.list_(pa.int16(), 2)))
    assert values(holes) == columns(holes)["a"] == [[1, None], [3, 4]]
    deep = batch_of(pa.array([[[1, 2], None], [[3, 4]]], pa.list_(pa.list_(pa.int16(), 2))))
    assert values(deep) == columns(deep)["a"] == [[[1, 2], None], [[3, 4]]]


@pytest.mark.parametrize("rows", [[[], None], [[], []], [None, []], [[], None, []]])
@pytest.mark.parametrize("kind", [pa.list_(pa.float64()), pa.list_(pa.string()), pa.list_(pa.list_(pa.int32()))], ids=str)
def test_nothing_but_empty_lists_and_nulls(rows: list[Any], kind: Any) -> None:
    batch = batch_of(pa.array(rows, kind))
    assert values(batch) == rows
    assert columns(batch, nulls=MASK) == {"a": [[] for _ in rows]}
    slots = feed([batch], exact=False, nulls=MASK)
    assert column_of(slots, "a_mask") == [row is not None for row in rows]


def test_deep_lists_of_large_unsigned_numbers() -> None:
    for rows in ([[[1, 2**63], []], [[2**64 - 1]]], [[[2**63]], [[5]]], [[1, 2**63 + 5], []], [[2**64 - 1], [1]]):
        depth = 2 if isinstance(rows[0][0], list) else 1
        kind = pa.list_(pa.uint64()) if depth == 1 else pa.list_(pa.list_(pa.uint64()))
        batch = batch_of(pa.array(rows, kind))
        assert columns(batch) == {"a": rows}
        assert same(values(batch), rows)


def test_run_ends() -> None:
    if not hasattr(pa, "RunEndEncodedArray"):
        pytest.skip("this pyarrow has no run-end encoding")
    import pyarrow.compute as pc

    for array, numbers in [
        (pa.array([1, 1, 2], pa.int32()), [1, 1, 2]),
        (pa.array([10**9] * 3, pa.timestamp("ns")), [10**6] * 3),
        (pa.array(["x", "x", "y"]), ["x", "x", "y"]),
    ]:
        encoded = batch_of(pc.run_end_encode(array))
        assert columns(encoded) == {"a": numbers}
        assert values(encoded) == values(batch_of(array))
    nulls = batch_of(pc.run_end_encode(pa.array([1, None, None])))
    assert values(nulls) == [1, None, None]
    assert columns(nulls, nulls=MASK) == {"a": [1, 0, 0]}


def test_structs_inside_lists_are_objects() -> None:
    day = datetime.date(2024, 2, 29)
    array = pa.array([[{"d": day, "x": 1}], [], None])
    row = types.Row("d", "x")(day, 1)
    assert values(batch_of(array)) == [[row], [], None]
    assert columns(batch_of(array)) == {"a": [[row], [], None]}
    twice = pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], names=["x", "x"])
    assert same(values(batch_of(twice)), [types.Row("x", "x")(1, 2)])
    with pytest.raises(SchemaMismatch, match=r"several columns would be called 'a\.x'"):
        flatten_batch(batch_of(twice))


def test_half_floats_inside_lists() -> None:
    array = pa.array([[np.float16(1.5)], [np.float16(2.5), None]], pa.list_(pa.float16()))
    assert [list(map(float, row[:1])) for row in values(batch_of(array))] == [[1.5], [2.5]]
    assert columns(batch_of(array.slice(0, 1))) == {"a": [[1.5]]}


def test_map_keys_that_python_cannot_have() -> None:
    array = pa.array([[([1, 2], 3)]], pa.map_(pa.list_(pa.int32()), pa.int32()))
    with pytest.raises(SchemaMismatch, match=r"column 'a': a map's key is no key of a dict .*map_entries"):
        values(batch_of(array))
    assert columns(batch_of(array)) == {"a.key": [[[1, 2]]], "a.value": [[3]]}


class Celsius(pa.ExtensionType):
    """An extension of a user."""

    def __init__(self, storage: Any) -> None:
        super().__init__(storage, "tests.celsius")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: Any, _: bytes) -> Any:
        return cls(storage)


def test_extensions_are_what_they_are_stored_as() -> None:
    floats = pa.ExtensionArray.from_storage(Celsius(pa.float32()), pa.array([1.5, None], pa.float32()))
    assert values(batch_of(floats)) == [1.5, None]
    assert columns(batch_of(floats), nulls=MASK) == {"a": [1.5, 0]}
    times = pa.ExtensionArray.from_storage(Celsius(pa.timestamp("ns")), pa.array([-1], pa.timestamp("ns")))
    assert columns(batch_of(times)) == {"a": [-1]}
    lists = pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), times)
    assert values(batch_of(lists)) == [[datetime.datetime(1969, 12, 31, 23, 59, 59, 999999)]]
    assert columns(batch_of(lists)) == {"a": [[-1]]}


def test_a_batch_of_empty_structs_has_rows() -> None:
    batch = batch_of(pa.array([{}, {}, None], pa.struct([])))
    slots = feed([batch], exact=False)
    assert [count for _, _, count in slots] == [3]
    assert values(batch) == [types.Row(), types.Row(), None]


def test_metadata_of_somebody_else_is_let_be() -> None:
    for text in (b"{", b"[]", b'{"fields": 3}', json.dumps({"fields": [{"name": "b", "type": "variant"}]}).encode()):
        batch = batch_of(pa.array([1.5])).replace_schema_metadata({KEY: text})
        assert values(batch) == [1.5]
        assert columns(batch) == {"a": [1.5]}
    assert one(pa.array([1.5])) == Column("a", "fixed", "float64", (), "float")


# ---- errors through a channel ------------------------------------------------------------------------------------------------


def through(write: Any, **how: Any) -> list[Any]:
    """Batches of columns, or rows with ``rows=True``, of what a writer writes. Raises what the writer raised."""
    with broker_here("1m", "64k", end_after=1) as broker, Channel.attach(broker.address) as channel:

        def run() -> None:
            with channel.writer() as writer:
                write(writer)

        thread, out = in_thread(run)
        try:
            with channel.reader() as reader:
                if how.pop("rows", False):
                    got = []
                    while not reader.ended:
                        got += reader.next_rows(10)
                    return got
                reader.open_columns(16, how.pop("spec", None), wait=False, **how)
                return list(reader.batches(16))
        finally:
            ended(thread)
            if isinstance(out[0], Exception):
                raise out[0]


def marked_variant() -> Any:
    kind = pa.struct([("value", pa.binary()), pa.field("metadata", pa.binary(), metadata={"variant": "true"})])
    return pa.array([{"value": b"\x0c\x01", "metadata": b"\x01\0\0"}], kind)


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (pa.array([1], pa.int64()).view(pa.time64("ns")), r"type time64\[ns\] are no tensor; feed numbers \(hour"),
        (pa.array([[1]], pa.list_(pa.int64())).cast(pa.list_(pa.time64("us"))), r"type list<.*time64\[us\]> are no tensor; feed n"),
        (pa.array([[{"x": 1}, None]]), r"type list<.*struct<x: int64>> are no tensor; feed a list for each field \(transform"),
        (pa.array([[[("k", 1)]]], pa.list_(pa.map_(pa.string(), pa.int8()))), r".*list<.*int8>> are no tensor; .*map_keys"),
        (marked_variant(), r"type VARIANT are no tensor; feed what lies in them \(variant_get"),
    ],
    ids=str,
)
def test_types_without_a_tensor_are_named_with_the_way_out(array: Any, text: str) -> None:
    for spec in (None, {"a": ("float32", None)}):
        with pytest.raises(SchemaMismatch, match="column 'a': values of " + text):
            through(lambda writer: writer.write_batch(batch_of(array)), tensors=True, spec=spec)
    if hasattr(types, "VariantVal") or "VARIANT" not in text:
        assert len(through(lambda writer: writer.write_batch(batch_of(array)))[0]["a"]) == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (datetime.time(1, 2), "found values of type datetime.time|holds values of type datetime.time"),
        ([{"x": 1}], "values of type dict"),
        ([[1, {2}]], "values of type set"),
        (Point(1, 2), "values of type tests.support.arrow_types.Point"),
    ],
)
def test_python_values_without_a_tensor_are_named(value: Any, text: str) -> None:
    with pytest.raises(SchemaMismatch, match=text):
        through(lambda writer: writer.write_rows([(1, value)]), tensors=True)


def test_the_row_of_a_time_that_does_not_fit_is_named() -> None:
    def write(writer: Any, kind: Any, raw: list[int]) -> None:
        writer.write_batch(batch_of(pa.array([0, 1], pa.int64()).view(kind)))
        writer.write_batch(batch_of(pa.array(raw, pa.int64()).view(kind)))

    for kind in (pa.timestamp("s"), pa.date64()):
        with pytest.raises(SchemaMismatch, match=r"row 4.*column 'a': .*does not fit"):
            through(lambda writer, kind=kind: write(writer, kind, [0, 1, 2**60 * 7, 2]))
    with pytest.raises(SchemaMismatch, match=r"row 5.*column 'a': the moment 9223372036854775807 microseconds"):
        through(lambda writer: write(writer, pa.timestamp("us"), [0, 1, 2, 2**63 - 1, 4]), rows=True)


def test_empty_structs_and_no_columns_come_through_with_their_rows() -> None:
    empty = batch_of(pa.array([{}] * 20, pa.struct([])))
    for batch in (empty, empty.select([])):
        for how in ({}, {"tensors": True}):
            with_rows = through_counted(batch, **how)
            assert with_rows == [16, 4]
        assert len(through(lambda writer, batch=batch: writer.write_batch(batch), rows=True)) == 20


def through_counted(batch: Any, **how: Any) -> list[int]:
    with broker_here("1m", "64k", end_after=1) as broker, Channel.attach(broker.address) as channel:

        def run() -> None:
            with channel.writer() as writer:
                writer.write_batch(batch)

        thread, _ = in_thread(run)
        with channel.reader() as reader:
            reader.open_columns(16, wait=False, **how)
            counts = []
            while (part := reader.next_batch(16)) is not None:
                counts.append(part.rows)
        ended(thread)
        return counts


def dictionary(places: list[Any], items: Any) -> Any:
    return pa.DictionaryArray.from_arrays(pa.array(places), items)


FIRST = datetime.datetime(1970, 1, 1)


@pytest.mark.parametrize(
    ("array", "wanted", "masked"),
    [
        (dictionary([0, 1, None], pa.array(["a", None])), ["a", None, None], {"a": ["a", "", ""]}),
        (dictionary([0, 1, None], pa.array([1, None], pa.timestamp("s"))), [FIRST + SECOND, None, None], {"a": [1000000, 0, 0]}),
        (dictionary([0, 1, 0], pa.array([[1], [2, 3]])), [[1], [2, 3], [1]], {"a": [[1], [2, 3], [1]]}),
        (dictionary([1, 0], pa.array([{"x": 1}, {"x": 2}])), [types.Row("x")(2), types.Row("x")(1)], {"a.x": [2, 1]}),
        (pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int32(), 2)).slice(1), [None, [3, 4]], {"a": [[0, 0], [3, 4]]}),
        (pa.array([[[1, 2]], []], pa.large_list(pa.list_(pa.int8(), 2))), [[[1, 2]], []], {"a": [[[1, 2]], []]}),
        (
            pa.array([[(datetime.timedelta(1), datetime.date(1970, 1, 3))]], pa.map_(pa.duration("s"), pa.date32())),
            [{datetime.timedelta(1): datetime.date(1970, 1, 3)}],
            {"a.key": [[86400000000]], "a.value": [[2]]},
        ),
        (pa.array([b"ab", None], pa.binary(2)), [as_collected(b"ab"), None], {"a": [b"ab", b""]}),
        (pa.array([2**64 - 1, None], pa.uint64()), [2**64 - 1, None], {"a": [2**64 - 1, 0]}),
    ],
    ids=lambda value: str(getattr(value, "type", "")),
)
def test_types_inside_types(array: Any, wanted: list[Any], masked: dict[str, Any]) -> None:
    assert same(values(batch_of(array)), wanted)
    assert columns(batch_of(array), nulls=MASK) == masked


def test_tensors_inside_lists() -> None:
    kind = pa.fixed_shape_tensor(pa.int32(), (2, 2), permutation=[1, 0])
    tensors = pa.ExtensionArray.from_storage(kind, pa.array([[1, 2, 3, 4]], pa.list_(pa.int32(), 4)))
    lists = pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), tensors)
    assert values(batch_of(lists)) == columns(batch_of(lists))["a"] == [[[[1, 3], [2, 4]]]]


class Harmful:
    """Runs code where it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (self.path, "w")


@pytest.mark.parametrize("name", ["__main__.Nothing", f"{__name__}.Nothing", "os.getpid", "builtins.open"])
def test_a_schema_brings_no_code_along(tmp_path: Any, name: str) -> None:
    pickled = base64.b64encode(pickle.dumps(Harmful(str(tmp_path / "harm")))).decode()
    node = {"type": "udt", "pyClass": name, "serializedClass": pickled, "sqlType": "long"}
    with pytest.raises(SchemaMismatch, match=rf"values of Spark's type {name} cannot be made here"):
        spark_types.maker(node, pa.int64())
    assert not list(tmp_path.iterdir())


def test_values_of_users_types_are_results() -> None:
    lists, field = [Point(1.0, 2.0), None], pa.field("x", pa.list_(pa.float64()))
    assert to_array(lists, field).to_pylist() == [[1.0, 2.0], None]
    assert to_array([lists], pa.field("x", pa.list_(field.type))).to_pylist() == [[[1.0, 2.0], None]]
    with pytest.raises(SchemaMismatch, match="takes whole numbers"):
        to_array(lists, pa.field("x", pa.int64()))
