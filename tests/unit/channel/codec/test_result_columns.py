"""Results of inference as columns of a declared schema: one rule for what goes where,
and no value that silently becomes another."""

from __future__ import annotations

import datetime as dt
import time
import zoneinfo
from collections import namedtuple
from collections.abc import Iterator
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyspark.ml.linalg import SparseVector, Vectors
from pyspark.sql import Row

from tests.support.helpers import ended, in_thread
from tfos_fast.channel import Channel
from tfos_fast.channel.arrow.build import to_array
from tfos_fast.channel.arrow.unpack import slot_to_arrow
from tfos_fast.channel.codec.result_arrays import to_results
from tfos_fast.errors import SchemaMismatch

UTC = dt.timezone.utc
STRUCT = pa.struct([("a", pa.int32()), ("b", pa.string())])
VECTOR = pa.struct(
    [("type", pa.int8()), ("size", pa.int32()), ("indices", pa.list_(pa.int32())), ("values", pa.list_(pa.float64()))]
)
Pair = namedtuple("Pair", "a b")


class Slot:
    """A slot of results, kept after the exchange."""

    def __init__(self, layout: Any, slot: Any, rows: int) -> None:
        self.layout, self.memory, self.rows = layout, bytes(slot), rows

    def __len__(self) -> int:
        return self.rows


class Exchange:
    """A program and a feeder that exchange rows for results, one batch after the other."""

    def __init__(self, channel: Channel) -> None:
        self.given: Any = None
        self.reader, self.writer = channel.reader(train_mode=False), channel.writer()
        self.thread, self.out = in_thread(self.answer)

    def answer(self) -> None:
        with self.reader as reader:
            while not reader.ended:
                if reader.next_rows(100):
                    reader.write_results(to_results(self.given))

    def slots(self, given: Any, count: int) -> list[Any]:
        self.given = given
        return [*self.writer.exchange(range(count), decode=Slot)]


@pytest.fixture(scope="module", autouse=True)
def exchange() -> Iterator[None]:
    global EXCHANGE
    with Channel.create(memory="1m", slot_bytes="64k", form="rows") as channel:
        EXCHANGE = Exchange(channel)
        yield
        EXCHANGE.writer.close()
        channel.end_feed()
        ended(EXCHANGE.thread)
        assert EXCHANGE.out == [None]


EXCHANGE: Any = None


def as_batches(given: Any, schema: pa.Schema, count: int) -> pa.Table:
    slots = EXCHANGE.slots(given, count)
    table = pa.Table.from_batches([slot_to_arrow(slot.layout, slot.memory, len(slot), schema) for slot in slots], schema)
    table.validate(full=True)
    return table


def through(given: Any, kind: Any, count: int, name: str = "x") -> list[Any]:
    """What a single column of this type has, when a program gives these results for its rows."""
    return as_batches(given, pa.schema([(name, kind)]), count)[name].to_pylist()


# ---- the rule ----

NESTED = {
    "array<string>": (pa.list_(pa.string()), [["bird"], [], ["a", "b"], None, ["x", None]]),
    "array<int>": (pa.list_(pa.int32()), [[1], [], [1, 2], [3], [2**31 - 1]]),
    "array<double>": (pa.list_(pa.float64()), [[1.5], [2.5], [3.5], [-0.0], [1e300]]),
    "array<boolean>": (pa.list_(pa.bool_()), [[True], [], [False, None], None, [True]]),
    "array<binary>": (pa.list_(pa.binary()), [[b"\x00\xff"], [], [b""], None, [b"x"]]),
    "array<array<int>>": (pa.list_(pa.list_(pa.int32())), [[[1]], [[]], [], [[1, 2], [3]], [[4, 5, 6]]]),
    "array<array<string>>": (pa.list_(pa.list_(pa.string())), [[["bird"]], [[]], [], [["a"], None], [["b", "c"]]]),
    "array<struct>": (pa.list_(STRUCT), [[{"a": 1, "b": "x"}], [], [None], None, [{"a": None, "b": None}]]),
}


@pytest.mark.parametrize("form", [list, tuple, "array"])
@pytest.mark.parametrize("kind", NESTED)
def test_a_list_is_the_value_of_a_column_of_lists_whatever_its_length(kind: str, form: Any):
    declared, values = NESTED[kind]
    given: list[Any] = []
    for value in values:
        if form == "array" and value is not None:
            array = np.empty(len(value), object)
            array[:] = value
            given.append(array)
        else:
            given.append(value if value is None or form == "array" else form(value))
    assert through(given, declared, len(given)) == values
    for one, value in zip(given, values, strict=True):  # a batch of one kind is packed in another way
        assert through([one] * 3, declared, 3) == [value] * 3
        assert through([{"x": one}] * 3, declared, 3) == [value] * 3
        assert as_batches([(one, 1)] * 3, pa.schema([("x", declared), ("y", pa.int8())]), 3)["x"].to_pylist() == [value] * 3


@pytest.mark.parametrize("length", [0, 1, 2, 17])
@pytest.mark.parametrize("form", ["array", "tensor", "list of arrays", "dict", "tuple", "frozen list"])
def test_arrays_of_two_dimensions_are_columns_of_lists(form: str, length: int):
    values = np.arange(3 * length, dtype=np.int32).reshape(3, length)
    forms: dict[str, Any] = {
        "array": values,
        "tensor": SimpleNamespace(numpy=lambda: values, shape=values.shape),
        "list of arrays": list(values),
        "dict": {"x": values},
        "tuple": (values,),
        "frozen list": values.tolist(),
    }
    for element in (pa.int32(), pa.int64(), pa.float32()):
        assert through(forms[form], pa.list_(element), 3) == values.tolist()


SINGLE = {
    "int": (pa.int32(), 7),
    "double": (pa.float64(), 7.5),
    "string": (pa.string(), "bird"),
    "binary": (pa.binary(), b"\xff"),
    "boolean": (pa.bool_(), True),
    "date": (pa.date32(), dt.date(1969, 12, 31)),
    "decimal": (pa.decimal128(10, 2), Decimal("1.50")),
}


@pytest.mark.parametrize("kind", SINGLE)
def test_a_single_value_may_lie_in_a_list_of_one(kind: str):
    declared, value = SINGLE[kind]
    for given in (value, [value], (value,), {"x": value}, Row(x=value), None, [None], {"x": None}, {}):
        expected = None if given in (None, [None], {"x": None}, {}) else value
        assert through([given] * 2, declared, 2) == [expected] * 2, given
    for given in ([value, value], (value, value), [], (), [[value]], {"y": value}):
        with pytest.raises(SchemaMismatch):
            through([given] * 2, declared, 2)


def test_structs_and_maps_are_values_and_dicts_go_by_names():
    for given in ((1, "x"), [1, "x"], {"x": {"a": 1, "b": "x"}}, {"x": Row(b="x", a=1)}, {"x": Pair(1, "x")}, {"x": (1, "x")}):
        assert through([given] * 2, STRUCT, 2) == [{"a": 1, "b": "x"}] * 2, given
    counts = pa.map_(pa.string(), pa.int64())
    for given in ({"x": {"k": 1}}, [("k", 1)], {"x": [["k", 1]]}):
        assert through([given] * 2, counts, 2) == [[("k", 1)]] * 2
    assert through([{"x": {}}, {"x": None}, None], counts, 3) == [[], None, None]
    for given in ({"k": 1}, {}, {"x": {"x": 1}}):  # the dict is the map, unless its only name is the column's
        assert through([given] * 2, counts, 2) == [list(given.get("x", given).items())] * 2
    for given in ({"a": 1, "b": "x"}, Row(b="x", a=1), Pair(1, "x")):
        assert through([given] * 2, STRUCT, 2) == [{"a": 1, "b": "x"}] * 2, given
    assert through({"a": np.arange(2), "b": ["x", "y"]}, STRUCT, 2) == [{"a": 0, "b": "x"}, {"a": 1, "b": "y"}]
    assert through([{"k": 1}, {"l": 2}, {"x": {"m": 3}}], counts, 3) == [[("k", 1)], [("l", 2)], [("m", 3)]]
    with pytest.raises(SchemaMismatch, match="takes dicts"):
        through([{"x": 1}] * 2, counts, 2)
    with pytest.raises(SchemaMismatch, match="has 1 values, and struct<a: int32, b: string> has 2"):
        through([("x",)] * 2, STRUCT, 2)
    with pytest.raises(SchemaMismatch, match=r"has \['c'\], which struct"):
        through([{"x": {"a": 1, "c": 2}}] * 2, STRUCT, 2)


def test_several_columns_by_name_and_by_position():
    schema = pa.schema([("b", pa.string()), ("a", pa.int32())])
    for given in (Pair(1, "x"), Row(a=1, b="x"), {"a": 1, "b": "x"}, ("x", 1), ["x", 1]):
        assert as_batches([given] * 2, schema, 2).to_pylist() == [{"b": "x", "a": 1}] * 2, given
    for given in (("x",), ("x", 1, 2), "x", np.zeros(2), Row("a", "a")(1, "x")):
        with pytest.raises(SchemaMismatch, match="a result has"):
            as_batches([given] * 2, schema, 2)


SWAPPED = np.array([("x", 1), ("y", 2)], [("b", "U1"), ("a", "i4")])  # a structured array, its fields in another order
A_B = [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]


@pytest.mark.parametrize("form", ["array", "rows", "recarray", "records", "masked"])
def test_structured_arrays_go_by_the_names_of_their_fields(form: str):
    given: Any = {
        "array": SWAPPED, "rows": list(SWAPPED), "recarray": SWAPPED.view(np.recarray),
        "records": pd.DataFrame({"b": ["x", "y"], "a": [1, 2]}).to_records(index=False), "masked": np.ma.masked_array(SWAPPED),
    }[form]  # fmt: skip
    assert as_batches(given, pa.schema([("a", pa.int32()), ("b", pa.string())]), 2).to_pylist() == A_B
    assert through(given, STRUCT, 2) == A_B
    with pytest.raises(SchemaMismatch, match="the results have 'a', and the schema has 'c' instead"):
        as_batches(given, pa.schema([("c", pa.int32()), ("b", pa.string())]), 2)


def test_structured_arrays_inside_results_go_by_names():
    assert through({"x": SWAPPED}, STRUCT, 2) == A_B
    assert through([{"x": row} for row in SWAPPED], STRUCT, 2) == A_B
    assert through([SWAPPED, SWAPPED[:1], SWAPPED[:0]], pa.list_(STRUCT), 3) == [A_B, A_B[:1], []]
    nested = np.array([((1, 2), 3)], [("s", [("q", "i4"), ("p", "i4")]), ("n", "i4")])
    schema = pa.schema([("n", pa.int32()), ("s", pa.struct([("p", pa.int32()), ("q", pa.int32())]))])
    for given in (nested, list(nested)):
        assert as_batches(given, schema, 1).to_pylist() == [{"n": 3, "s": {"p": 2, "q": 1}}]


def test_vectors_of_spark_and_arrays_are_vectors():
    dense = {"type": 1, "size": None, "indices": None, "values": [0.0, 2.0]}
    sparse = {"type": 0, "size": 2, "indices": [1], "values": [2.0]}
    for given, expected in (
        (Vectors.dense([0, 2]), dense), (SparseVector(2, {1: 2.0}), sparse), (np.array([0.0, 2.0]), dense)
    ):  # fmt: skip
        assert through([given] * 2, VECTOR, 2) == [expected] * 2
        assert through([{"x": given}] * 2, VECTOR, 2) == [expected] * 2
        assert through([[given]] * 2, pa.list_(VECTOR), 2) == [[expected]] * 2
    assert through(np.array([[0.0, 2.0]] * 2), VECTOR, 2) == [dense] * 2
    assert through([Vectors.dense([0, 2])] * 2, pa.list_(pa.float64()), 2) == [[0.0, 2.0]] * 2


# ---- values that would silently become others ----

REFUSED: list[tuple[Any, Any]] = [
    (pa.int32(), 2**31), (pa.int32(), -(2**31) - 1), (pa.int8(), 128), (pa.int64(), 2**63), (pa.int32(), np.int64(2**31)),
    (pa.int64(), 1.5), (pa.int64(), float("nan")), (pa.int64(), float("inf")), (pa.int64(), np.float32(0.5)),
    (pa.int64(), Decimal(1)),
    (pa.int64(), True), (pa.int64(), np.True_), (pa.float64(), True), (pa.int64(), "1"), (pa.int64(), b"1"), (pa.bool_(), 1),
    (pa.bool_(), 0.0), (pa.bool_(), np.int8(1)), (pa.bool_(), "true"), (pa.float32(), 1e300), (pa.float32(), -1e39),
    (pa.float64(), 2**53 + 1), (pa.float32(), 2**24 + 1), (pa.float64(), "1.0"), (pa.float64(), 1j), (pa.float64(), Decimal("1.5")),
    (pa.string(), 1), (pa.string(), 1.5), (pa.string(), True), (pa.string(), b"\xff"), (pa.string(), "\ud800"),
    (pa.string(), ["x", "y"]),
    (pa.string(), dt.date(2020, 1, 1)), (pa.binary(), "x"), (pa.binary(), 1), (pa.binary(), np.zeros(3, np.uint8)),
    (pa.date32(), "2020-01-01"), (pa.date32(), 1.5), (pa.date32(), dt.datetime(2020, 1, 1, tzinfo=UTC)), (pa.date32(), 2**31),
    (pa.timestamp("us", "UTC"), dt.date(2020, 1, 1)), (pa.timestamp("us", "UTC"), "2020-01-01"), (pa.timestamp("us", "UTC"), 1.5),
    (pa.timestamp("us", "UTC"), np.datetime64(2**60, "s")), (pa.timestamp("us", "UTC"), True), (pa.timestamp("us", "UTC"), 2**63),
    (pa.timestamp("us", "UTC"), dt.timedelta(1)), (pa.timestamp("us"), dt.datetime(2020, 1, 1, tzinfo=UTC)),
    (pa.timestamp("us"), dt.date(2020, 1, 1)), (pa.duration("us"), dt.timedelta(days=999_999_999)), (pa.duration("us"), 1.5),
    (pa.duration("us"), np.timedelta64(1, "M")), (pa.duration("us"), np.timedelta64(2**62, "ms")), (pa.time64("ns"), 5),
    (pa.time64("ns"), dt.time(1, tzinfo=UTC)), (pa.time64("ns"), "01:00"), (pa.decimal128(4, 2), 1.5),
    (pa.decimal128(4, 2), Decimal("1.234")),
    (pa.decimal128(4, 2), Decimal("123")), (pa.decimal128(4, 2), Decimal("NaN")), (pa.decimal128(4, 2), True),
    (pa.list_(pa.string()), "bird"), (pa.list_(pa.binary()), b"bird"), (pa.list_(pa.string()), {"a"}), (pa.list_(pa.string()), 5),
    (pa.list_(pa.int32()), [1.5]), (pa.list_(pa.int32()), np.array([2**31])), (pa.list_(pa.int32()), [[1]]),
    (pa.list_(pa.bool_()), [1]),
    (pa.map_(pa.string(), pa.int64()), [("k", 1), (np.str_("k"), 2)]), (pa.float64(), np.longdouble("1e4000")),
    (pa.decimal128(4, 2), Decimal("1E+2")), (pa.decimal128(4, 2), Decimal("-Infinity")), (pa.decimal128(4, 2), 10**50),
    (pa.list_(pa.list_(pa.int32())), [1]), (STRUCT, 5), (STRUCT, {"a": "x", "b": "x"}), (pa.map_(pa.string(), pa.int64()), 5),
    (pa.map_(pa.string(), pa.int64()), [("k", 1.5)]), (pa.map_(pa.string(), pa.int64()), [(None, 1)]), (pa.null(), 5),
]  # fmt: skip


@pytest.mark.parametrize(("declared", "value"), REFUSED, ids=[f"{kind}-{value!r:.60}" for kind, value in REFUSED])
def test_a_value_that_the_type_does_not_hold_is_refused(declared: Any, value: Any):
    with pytest.raises(SchemaMismatch, match="column 'x'"):
        to_array([None, value], pa.field("x", declared))


ARRAYS: list[tuple[Any, Any]] = [
    (pa.int32(), [2**31]), (pa.int64(), [1.5]), (pa.int64(), [float("nan")]), (pa.int64(), [True]), (pa.float64(), [True]),
    (pa.bool_(), [2]), (pa.bool_(), [1.0]), (pa.float32(), [1e300]), (pa.float64(), [2**53 + 1]), (pa.float32(), [2**24 + 1]),
    (pa.int64(), np.array([2**63], np.uint64)), (pa.string(), [1]), (pa.binary(), [1]), (pa.date32(), [1.5]),
    (pa.timestamp("us"), [1.5]), (pa.time64("ns"), [1]), (pa.decimal128(4, 2), [1.5]), (pa.decimal128(4, 2), [1000]),
    (pa.float64(), np.array(["1e4000"], np.longdouble)), (pa.decimal128(4, 2), np.array([0.5], ">f8")),
    (pa.float64(), [1j]), (pa.int8(), np.array([1], "M8[ns]")), (pa.float64(), np.array(["1"])),
    (pa.timestamp("us"), np.array([1], "m8[us]")),
]  # fmt: skip


@pytest.mark.parametrize("form", ["array", "dict", "tuple", "two dimensions"])
@pytest.mark.parametrize(("declared", "values"), ARRAYS, ids=[f"{kind}-{values}" for kind, values in ARRAYS])
def test_arrays_whose_values_the_type_does_not_hold_are_refused(declared: Any, values: Any, form: str):
    array = np.asarray(values)
    given: Any = {"array": array, "dict": {"x": array}, "tuple": (array,), "two dimensions": array[:, None]}[form]
    with pytest.raises(SchemaMismatch, match="column 'x"):
        through(given, pa.list_(declared) if form == "two dimensions" else declared, 1)


HELD: list[tuple[Any, Any, Any]] = [
    (pa.int64(), 3.0, 3), (pa.int64(), np.int8(3), 3), (pa.int64(), np.array(3), 3), (pa.float32(), 0.1, float(np.float32(0.1))),
    (pa.float32(), float("-inf"), float("-inf")), (pa.float64(), 2**53, 2.0**53), (pa.float64(), np.float16(0.5), 0.5),
    (pa.float64(), ml_dtypes.bfloat16(1.5), 1.5), (pa.float32(), ml_dtypes.float8_e4m3fn(0.5), 0.5),
    (pa.int8(), ml_dtypes.int4(-3), -3),
    (pa.float64(), np.longdouble(1.5), 1.5), (pa.bool_(), np.True_, True), (pa.string(), b"caf\xc3\xa9", "café"),
    (pa.string(), np.str_("x"), "x"),
    (pa.binary(), bytearray(b"x"), b"x"), (pa.binary(), np.bytes_(b"x"), b"x"), (pa.decimal128(6, 2), 5, Decimal("5.00")),
    (pa.decimal128(38, 0), Decimal(10**38 - 1), Decimal(10**38 - 1)),
    (pa.decimal128(4, 2), Decimal("1.50" + "0" * 60), Decimal("1.50")), (pa.decimal128(4, 2), Decimal("0E+60"), Decimal("0.00")),
    (pa.decimal128(4, 0), Decimal("1E+3"), Decimal(1000)),
    (pa.time64("ns"), dt.time(23, 59, 59, 999999), dt.time(23, 59, 59, 999999)),
    (pa.duration("us"), dt.timedelta(-1, 0, 1), dt.timedelta(-1, 0, 1)), (pa.date32(), dt.date(1, 1, 1), dt.date(1, 1, 1)),
    (pa.date32(), dt.datetime(1969, 12, 31, 23), dt.date(1969, 12, 31)), (pa.string(), pd.NA, None),
    (pa.timestamp("us"), pd.NaT, None),
    (pa.date32(), -1, dt.date(1969, 12, 31)), (pa.duration("us"), pd.Timedelta(-1, "ns"), dt.timedelta(microseconds=-1)),
    (pa.list_(pa.timestamp("us")), np.array([-1], "M8[ns]"), [dt.datetime(1969, 12, 31, 23, 59, 59, 999999)]),
    (pa.list_(pa.float32()), np.array([1.5], ml_dtypes.bfloat16), [1.5]), (pa.list_(pa.int32()), [np.int64(1), None], [1, None]),
    (pa.list_(pa.int32()), range(2), [0, 1]),
]  # fmt: skip


@pytest.mark.parametrize(("declared", "value", "expected"), HELD, ids=[f"{kind}-{value!r:.60}" for kind, value, _ in HELD])
def test_a_value_that_the_type_holds_is_kept(declared: Any, value: Any, expected: Any):
    array = to_array([value, None], pa.field("x", declared))
    array.validate(full=True)
    assert array.to_pylist() == [expected, None]


def test_nan_and_minus_zero_are_kept():
    for given in ([float("nan"), -0.0], np.array([float("nan"), -0.0])):
        nan, zero = through(given, pa.float64(), 2)
        assert nan != nan
        assert str(zero) == "-0.0"


def test_none_in_a_column_that_has_none_is_refused():
    for field, value in (
        (pa.field("x", pa.int64(), nullable=False), None),
        (pa.field("x", pa.list_(pa.field("element", pa.int64(), nullable=False))), [1, None]),
        (pa.field("x", pa.struct([pa.field("a", pa.int64(), nullable=False)])), {"a": None}),
        (pa.field("x", pa.timestamp("us"), nullable=False), np.datetime64("NaT", "ns")),
    ):
        with pytest.raises(SchemaMismatch, match="NOT NULL"):
            to_array([value], field)
    struct = pa.field("x", pa.struct([pa.field("a", pa.int64(), nullable=False)]))
    assert to_array([None, {"a": 1}], struct).to_pylist() == [None, {"a": 1}]
    with pytest.raises(SchemaMismatch, match="NOT NULL"):
        as_batches({"y": np.zeros(3)}, pa.schema([pa.field("x", pa.int64(), nullable=False), pa.field("y", pa.float64())]), 3)


# ---- times ----


@pytest.fixture(params=["UTC", "America/New_York", "Asia/Kolkata", "Pacific/Apia"])
def zone(request: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield request.param
    monkeypatch.undo()
    time.tzset()


WALL = [
    dt.datetime(2023, 11, 5, 1, 30), dt.datetime(2023, 11, 5, 1, 30, fold=1), dt.datetime(1969, 12, 31, 23, 59, 59, 999999),
    dt.datetime(1582, 10, 10), dt.datetime(2011, 12, 29, 23), dt.datetime(1, 1, 5), dt.datetime(9999, 12, 25, 1, 2, 3, 999999),
]  # fmt: skip


def micros(moment: dt.datetime) -> int:
    return (moment - dt.datetime(1970, 1, 1, tzinfo=UTC)) // dt.timedelta(microseconds=1)


def test_naive_datetimes_are_local_time_with_their_fold(zone: str):
    here = zoneinfo.ZoneInfo(zone)
    kind = pa.timestamp("us", "UTC")
    assert to_array(WALL, pa.field("x", kind)).cast(pa.int64()).to_pylist() == [micros(each.replace(tzinfo=here)) for each in WALL]
    assert through(WALL, pa.timestamp("us"), len(WALL)) == [each.replace(fold=0) for each in WALL]
    aware = [each.replace(tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")) for each in WALL]
    assert to_array(aware, pa.field("x", kind)).cast(pa.int64()).to_pylist() == [micros(each) for each in aware]
    assert to_array([pd.Timestamp(WALL[1])], pa.field("x", kind)).cast(pa.int64()).to_pylist() == [
        micros(WALL[1].replace(tzinfo=here))
    ]


def test_naive_times_of_pandas_are_local_time(zone: str):
    walls = [*WALL[2:3], dt.datetime(2023, 7, 1, 12, 30, 0, 5), None]
    moments = [wall and wall.replace(tzinfo=zoneinfo.ZoneInfo(zone)).astimezone(UTC) for wall in walls]
    series = pd.Series(walls, dtype="M8[ns]")
    index = pd.Index(series)
    for given in (series, series.astype("M8[us]"), index, series.to_frame("x"), {"x": series}, {"x": index}, (series,)):
        assert through(given, pa.timestamp("us", "UTC"), 3) == moments
        assert through(given, pa.timestamp("us"), 3) == walls
    assert through(series.to_numpy(), pa.timestamp("us", "UTC"), 3) == [wall and wall.replace(tzinfo=UTC) for wall in walls]


def test_the_edges_of_the_calendar_are_moments_too(zone: str):
    found = to_array([dt.datetime.min, dt.datetime.max], pa.field("x", pa.timestamp("us", "UTC"))).cast(pa.int64()).to_pylist()
    here = zoneinfo.ZoneInfo(zone)
    for naive, number in zip((dt.datetime.min, dt.datetime.max), found, strict=True):
        near = naive + dt.timedelta(days=7 if naive.year == 1 else -7)
        offset = near.replace(tzinfo=here).utcoffset()
        assert offset is not None
        assert number == micros(naive.replace(tzinfo=UTC)) - offset // dt.timedelta(microseconds=1)


@pytest.mark.parametrize("unit", ["D", "h", "m", "s", "ms", "us", "ns", "ps", "fs", "as"])
@pytest.mark.parametrize("form", ["array", "dict", "rows", "tuple", "arrays"])
def test_times_of_numpy_in_every_unit(zone: str, unit: str, form: str):
    count = np.array([-1, 0, 1, 2000, -2001, "NaT"], f"M8[{unit}]")
    spans = np.array([-1, 0, 1, 2000, -2001, "NaT"], f"m8[{unit}]")
    seconds = {"D": 86400, "h": 3600, "m": 60, "s": 1}
    factor = {name: many * 10**6 for name, many in seconds.items()} | {"ms": 1000, "us": 1}
    under = {"ns": 10**3, "ps": 10**6, "fs": 10**9, "as": 10**12}
    numbers = [-1, 0, 1, 2000, -2001]
    expected = [*(each * factor[unit] if unit in factor else each // under[unit] for each in numbers), None]
    for values, kind in ((count, pa.timestamp("us", "UTC")), (count, pa.timestamp("us")), (spans, pa.duration("us"))):
        if unit == "D" and kind != pa.duration("us") and form in ("array", "dict", "tuple"):
            with pytest.raises(SchemaMismatch, match="datetime"):  # days of an array are dates, and a date is no moment
                through({"array": values, "dict": {"x": values}, "tuple": (values,)}[form], kind, 6)
            continue
        given: Any = {
            "array": values, "dict": {"x": values}, "rows": list(values), "tuple": (values,),
            "arrays": [values[i : i + 1] for i in range(6)]
        }[form]  # fmt: skip
        declared = pa.list_(kind) if form == "arrays" else kind
        found = as_batches(given, pa.schema([("x", declared)]), 6)["x"].combine_chunks()
        found = (found.flatten() if form == "arrays" else found).cast(pa.int64()).to_pylist()
        assert found == expected
    days = as_batches(count, pa.schema([("x", pa.date32())]), 6)["x"].to_pylist()
    per_day = {name: 86400 // many for name, many in seconds.items()}
    per_day |= {name: 86400 * 1000**k for k, name in enumerate(["ms", "us", "ns", "ps", "fs", "as"], 1)}
    assert days == [*(dt.date(1970, 1, 1) + dt.timedelta(days=each // per_day[unit]) for each in numbers), None]


def test_whole_numbers_are_times_as_column_mode_has_them():
    assert through(np.array([-1, 5]), pa.timestamp("us"), 2) == [
        dt.datetime(1969, 12, 31, 23, 59, 59, 999999), dt.datetime(1970, 1, 1, 0, 0, 0, 5)
    ]  # fmt: skip
    assert through(np.array([-1, 5], np.int32), pa.date32(), 2) == [dt.date(1969, 12, 31), dt.date(1970, 1, 6)]


# ---- what batch_results takes ----


def test_series_and_frames_of_pandas():
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", None], "t": pd.to_datetime(["1969-12-31 23:59:59.999999999", None])})
    frame["z"] = frame["t"].dt.tz_localize("UTC")
    frame["n"] = pd.array([1, None], "Int64")
    schema = pa.schema(
        [("a", pa.int64()), ("b", pa.string()), ("t", pa.timestamp("us")), ("z", pa.timestamp("us", "UTC")), ("n", pa.int8())]
    )
    time_ = dt.datetime(1969, 12, 31, 23, 59, 59, 999999)
    assert as_batches(frame, schema, 2).to_pylist() == [
        {"a": 1, "b": "x", "t": time_, "z": time_.replace(tzinfo=UTC), "n": 1}, {"a": 2, "b": None, "t": None, "z": None, "n": None}
    ]  # fmt: skip
    assert through(frame["a"], pa.int64(), 2) == [1, 2]
    assert through({"x": frame["n"]}, pa.int64(), 2) == [1, None]
    assert as_batches((frame["a"], frame["b"]), pa.schema([("p", pa.int8()), ("q", pa.string())]), 2).to_pylist() == [
        {"p": 1, "q": "x"}, {"p": 2, "q": None}
    ]  # fmt: skip
    assert through(frame["t"], pa.timestamp("us"), 2) == [time_, None]
    with pytest.raises(ValueError, match="name twice"):
        to_results(pd.DataFrame([[1, 2]], columns=["a", "a"]))


def test_what_pandas_counts_as_missing_is_null():
    nan = float("nan")
    category = pd.Series(["x", None], dtype="category")
    for given in (pd.Series(["x", nan]), category, category.array, pd.Index(["x", nan])):
        assert through(given, pa.string(), 2) == ["x", None]
        assert through({"x": given}, pa.string(), 2) == ["x", None]
    assert through(pd.DataFrame({"x": [[1], nan]}), pa.list_(pa.int8()), 2) == [[1], None]
    for given in (pd.array([1, None], "Int64"), pd.Series([1, None], dtype="category"), pd.Index([1, None], dtype="Int64")):
        assert through(given, pa.int64(), 2) == [1, None]
    found = through(pd.Series([1.5, nan, None], dtype=object), pa.float64(), 3)
    assert (found[0], found[1] != found[1], found[2]) == (1.5, True, None)  # among numbers, NaN is one
    moments = pd.DatetimeIndex(["2020-01-01", None], tz="Europe/Berlin")
    assert through(moments, pa.timestamp("us", "UTC"), 2) == [dt.datetime(2019, 12, 31, 23, tzinfo=UTC), None]


def test_errors_in_lists_of_arrays_name_the_column():
    for given in ([np.array([0.5]), np.array([1.0, 2.0])], np.array([[0.5]] * 2), [[0.5], [0.5, None]]):
        with pytest.raises(SchemaMismatch, match=r"^column 'x' of the results, declared as list<item: int32>: "):
            through(given, pa.list_(pa.int32()), 2)


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float8_e5m2", "float16", "int4", "uint4"])
def test_small_numbers_of_one_dimension_and_more(name: str):
    kind = np.dtype(getattr(ml_dtypes, name, name))
    values = np.array([0, 1, 2], kind)
    for declared in (pa.float32(), pa.float64()):
        assert through(values, declared, 3) == [0.0, 1.0, 2.0]
        assert through({"x": values[:, None]}, pa.list_(declared), 3) == [[0.0], [1.0], [2.0]]
        assert through(list(values), declared, 3) == [0.0, 1.0, 2.0]
    rows = to_results(values)
    assert len(rows) == 3


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("abc", "of type str"), (b"abc", "of type bytes"),
        (memoryview(b"abc"), "of type memoryview"), (5, "of type int"), ({1, 2}, "of type set"),
        ({}, "without columns"), (None, "NoneType"),
        ((np.zeros(2), [1, 2]), "item 0 is an array, and item 1 is none"), (pa.table({"a": [1, 2]}), "of type Table"),
    ],
)  # fmt: skip
def test_what_is_no_sequence_of_results_is_refused(given: Any, found: str):
    with pytest.raises(ValueError, match=found):
        to_results(given)
