"""Parquet files: times beyond nanoseconds, old calendars, types that Spark alone names, and files that differ from each other."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from tests.support.parquet_files import Counting, read
from tfos_fast.channel.arrow.spark_types import nodes
from tfos_fast.cluster.files.parquet import parquet
from tfos_fast.errors import SourceError

UTC = dt.timezone.utc
ROW = b"org.apache.spark.sql.parquet.row.metadata"
VERSION = b"org.apache.spark.version"


def write(folder, *tables, **options):
    """One file for each table: ``0.parquet``, ``1.parquet``."""
    for i, table in enumerate(tables):
        table = table if isinstance(table, pa.Table) else pa.table(table)
        pq.write_table(table, folder / f"{i}.parquet", **options)
    return folder


def table_of(*args, **arguments):
    """What the tasks read, as one table."""
    return pa.Table.from_batches([batch for split in read(parquet(*args, **arguments)) for batch in split])


def rows_of(*args, **arguments):
    return table_of(*args, **arguments).to_pylist()


def values(*args, name="x", **arguments):
    return [row[name] for row in rows_of(*args, **arguments)]


# ---- times -------------------------------------------------------------------------------------------------------------------

FAR = [dt.datetime(9999, 12, 31, 23, 59, 59, 999999), dt.datetime(1, 1, 1), dt.datetime(1816, 3, 30), None, dt.datetime(1970, 1, 1)]
AWARE = [value and value.replace(tzinfo=UTC) for value in FAR]


@pytest.mark.parametrize("int96", [True, False])
def test_moments_out_of_the_range_of_nanoseconds(tmp_path, int96):
    moments = pa.array(FAR, pa.timestamp("us", "UTC"))
    nested = pa.array([[value, None] if value else None for value in FAR], pa.list_(pa.timestamp("us", "UTC")))
    struct = pa.StructArray.from_arrays([moments, nested], names=["t", "l"])
    pairs = pa.array([[("k", value)] for value in FAR], pa.map_(pa.string(), pa.timestamp("us", "UTC")))
    data = pa.table({"x": moments, "l": nested, "s": struct, "m": pairs, "n": range(5)})
    write(tmp_path, data, use_deprecated_int96_timestamps=int96, store_schema=False)
    if int96:
        assert pq.ParquetFile(tmp_path / "0.parquet").schema.column(0).physical_type == "INT96"
    table = table_of(tmp_path)
    assert table.schema.types[:2] == [pa.timestamp("us", "UTC"), pa.list_(pa.timestamp("us", "UTC"))]
    assert table["x"].to_pylist() == AWARE
    assert table["l"].to_pylist() == [[value, None] if value else None for value in AWARE]
    assert table["s"].to_pylist() == [{"t": value, "l": [value, None] if value else None} for value in AWARE]
    assert table["m"].to_pylist() == [[("k", value)] for value in AWARE]


def test_nanoseconds_are_rounded_down(tmp_path):
    numbers = [-1, -1000, 1999, 0, None, 2**62]
    kinds = {"x": pa.timestamp("ns", "UTC"), "n": pa.timestamp("ns"), "d": pa.duration("ns"), "t": pa.time64("ns")}
    columns = {name: pa.array([i if name != "t" or not i or i > 0 else 0 for i in numbers], pa.int64()).cast(kind) for name, kind in
               kinds.items() if name != "t"}  # fmt: skip
    columns["t"] = pa.array([0, 1999, None, 1, 2, 86_399_999_999_999], pa.int64()).cast(pa.time64("ns"))
    table = table_of(write(tmp_path, columns))
    assert table.schema.types == [pa.timestamp("us", "UTC"), pa.timestamp("us"), pa.duration("us"), pa.time64("us")]
    for name in ("x", "n", "d"):
        assert table[name].cast(pa.int64()).to_pylist() == [-1, -1, 1, 0, None, 2**62 // 1000]
    assert table["t"].cast(pa.int64()).to_pylist() == [0, 1, None, 0, 0, 86_399_999_999]


def test_milliseconds(tmp_path):
    inside = pa.array([-1, 253_402_300_799_999, None]).cast(pa.timestamp("ms", "UTC"))
    assert table_of(write(tmp_path, {"x": inside}))["x"].cast(pa.int64()).to_pylist() == [-1000, 253_402_300_799_999_000, None]
    write(tmp_path, {"x": pa.array([2**60]).cast(pa.timestamp("ms"))})
    with pytest.raises(SourceError, match=r"0\.parquet: column 'x' of timestamp\[ms\] does not become timestamp\[us\]: .*11529215"):
        read(parquet(tmp_path))


def test_moments_and_times_without_a_zone_stay_apart(tmp_path):
    zero = pa.array([0])
    write(tmp_path, {"x": zero.cast(pa.timestamp("us", "Europe/Berlin"))}, {"x": zero.cast(pa.timestamp("ms", "UTC"))})
    assert values(tmp_path) == [dt.datetime(1970, 1, 1, tzinfo=UTC)] * 2
    write(tmp_path, {"x": pa.array([0]).cast(pa.timestamp("us"))})
    with pytest.raises(SourceError, match=r"'x' is timestamp\[us\] in .*0\.parquet and timestamp\[us, tz=UTC\] in .*1\.parquet"):
        parquet(tmp_path).plan(1)


@pytest.mark.parametrize("unit", ["us", "ns", "ms"])
def test_filters_on_moments(tmp_path, unit):
    moments = pa.array([dt.datetime(2020, 1, day, tzinfo=UTC) for day in range(1, 9)], pa.timestamp(unit, "UTC"))
    write(tmp_path, {"x": moments, "n": range(8), "d": moments.cast(pa.date32())}, row_group_size=2)
    third = dt.datetime(2020, 1, 3, tzinfo=UTC)
    local = third.astimezone().replace(tzinfo=None)
    for limit in (third, local, "2020-01-03T00:00:00+00:00", np.datetime64(local), pd.Timestamp(third), pd.Timestamp(local)):
        assert values(tmp_path, filters=[("x", ">", limit)], name="n") == [3, 4, 5, 6, 7]
        assert values(tmp_path, filters=[("x", "in", [limit])], name="n") == [2]
    assert values(tmp_path, filters=pc.field("x") >= pa.scalar(third), name="n") == [2, 3, 4, 5, 6, 7]
    assert values(tmp_path, filters=[[("d", "=", "2020-01-03")], [("d", ">", dt.date(2020, 1, 7))]], name="n") == [2, 7]
    with pytest.raises(SourceError, match=r"x: timestamp\[us, tz=UTC\].*datetimes that have a time zone"):
        parquet(tmp_path, filters=pc.field("x") > dt.datetime(2020, 1, 1)).plan(1)


def test_filters_on_decimals(tmp_path):
    write(tmp_path, {"x": [Decimal("1.5"), Decimal("2.5")], "n": [1, 2]})
    for limit in (2, "1.75", Decimal("2.4"), np.int32(2), 1.75):
        assert values(tmp_path, filters=[("x", ">", limit)], name="n") == [2]
    with pytest.raises(SourceError, match=r"the filter .* does not fit the columns \(x: decimal128\(2, 1\)"):
        parquet(tmp_path, filters=[("x", ">", "much")]).plan(1)


def test_filters_on_int96(tmp_path):
    write(tmp_path, {"x": pa.array(FAR, pa.timestamp("us")), "n": range(5)}, use_deprecated_int96_timestamps=True)
    assert values(tmp_path, filters=[("x", ">", dt.datetime(9000, 1, 1, tzinfo=UTC))], name="n") == [0]
    assert values(tmp_path, filters=[("x", "<", dt.datetime(100, 1, 1, tzinfo=UTC))], name="n") == [1]


NAN = float("nan")
FLOATS = [[1.0, NAN], [NAN, NAN], [1.0, 1.0, NAN, None], [1.0, 2.0, NAN], [0.0, -0.0], [0.0, 0.0], [-0.0]]
FLOAT_FILTERS = {
    "x != 1": [("x", "!=", 1.0)], "not x < 2": ~(pc.field("x") < 2), "not x < 3": ~(pc.field("x") < 3),
    "nan": pc.is_nan(pc.field("x")),
    "null or nan": pc.field("x").is_null(nan_is_null=True), "not in": [("x", "not in", [1.0])], "in nan": [("x", "in", [NAN])],
    "x > 1 or x != 1": [[("x", ">", 1.0)], [("x", "!=", 1.0)]], "x = -0": [("x", "=", -0.0)], "isin": pc.field("x").isin([0.0]),
    "x > 1.5": [("x", ">", 1.5)], "valid": pc.field("x").is_valid(),
}  # fmt: skip


@pytest.mark.parametrize("kind", [pa.float32(), pa.float64()], ids=str)
@pytest.mark.parametrize("filters", FLOAT_FILTERS.values(), ids=FLOAT_FILTERS)
def test_filters_on_floats_find_nan_that_row_groups_do_not_tell_of(tmp_path, filters, kind):
    expression = pq.filters_to_expression(filters) if isinstance(filters, list) else filters
    for floats in FLOATS:
        table = pa.table({"x": pa.array(floats, kind), "n": range(len(floats))})
        write(tmp_path, table, row_group_size=4)
        found = [n for split in read(parquet(tmp_path, filters=filters)) for batch in split for n in batch["n"].to_pylist()]
        assert found == table.filter(expression)["n"].to_pylist()


def test_filters_on_integers_with_numbers_of_other_types(tmp_path):
    whole = [2**53, 2**53 + 1, -1, None, 3]
    write(tmp_path, {"x": whole, "u": pa.array([2**63, 0, 2**64 - 1, None, 3], pa.uint64()), "n": range(5)}, row_group_size=2)
    for operator, limit, found in (
        (">", 2.5, [0, 1, 4]), (">=", 2.5, [0, 1, 4]), ("<", 2.5, [2]), ("<=", 2.5, [2]), ("=", 2.0**53, [0]),
        ("!=", 3.0, [0, 1, 2]), (">", np.float32(3.0), [0, 1]),
        ("<=", -0.5, [2]), (">=", -1.0, [0, 1, 2, 4]), ("in", [3.0, 2**53 + 1], [1, 4]),
    ):  # fmt: skip
        assert values(tmp_path, filters=[("x", operator, limit)], name="n") == found, (operator, limit)
    assert values(tmp_path, filters=[("u", ">", 2**63)], name="n") == [2]
    assert values(tmp_path, filters=[("u", "<=", 2**63)], name="n") == [0, 1, 4]
    for filters in (pc.field("x") > 2.5, [("x", "in", ["3"])], [("u", ">", -1)]):
        with pytest.raises(SourceError, match=r"the filter .* cannot be applied to .*0\.parquet: .*; compare with values of "):
            rows_of(tmp_path, filters=filters)


def test_filters_on_floats_in_structs_and_of_both_zeros(tmp_path):
    write(tmp_path, {"s": [{"x": 1.0}, {"x": NAN}], "n": [0, 1]})
    assert values(tmp_path, filters=~(pc.field("s", "x") < 2), name="n") == [1]
    write(tmp_path, {"x": [0.0, -0.0, 1.0], "n": [0, 1, 2]}, row_group_size=1)
    assert values(tmp_path, filters=[("x", "in", [0, 7])], name="n") == [0, 1]
    assert values(tmp_path, filters=[("x", "not in", [-0.0])], name="n") == [2]


def test_row_groups_are_left_out_by_floats_where_a_filter_wants_no_nan(tmp_path):
    write(tmp_path, {"x": np.arange(8.0), "n": range(8)}, row_group_size=2)
    for filters in ([("x", ">", 5.5)], [("x", "in", [6.0, 7.0])], pc.field("x") > 5.5, [("x", ">=", 6.0), ("n", ">", 0)]):
        (split,), _ = parquet(tmp_path, filters=filters, splits=1).plan(1)
        assert [piece.row_group for piece in split] == [3]


# ---- the old calendar --------------------------------------------------------------------------------------------------------

OLD = {
    "a date": ({b"org.apache.spark.legacyDateTime": b"", VERSION: b"3.5.1"}, pa.date32(), False),
    "a moment": ({b"org.apache.spark.legacyDateTime": b"", VERSION: b"3.5.1"}, pa.timestamp("us", "UTC"), False),
    "int96": ({b"org.apache.spark.legacyINT96": b"", VERSION: b"4.0.0"}, pa.timestamp("us"), True),
    "a date of Spark 2.4": ({VERSION: b"2.4.8"}, pa.date32(), False),
    "int96 of Spark 3.0": ({VERSION: b"3.0.3"}, pa.timestamp("us"), True),
    "Spark without its version": ({ROW: b'{"type":"struct","fields":[]}'}, pa.timestamp("us"), True),
}


@pytest.mark.parametrize(("metadata", "kind", "int96"), OLD.values(), ids=OLD)
@pytest.mark.parametrize("shape", ["plain", "list", "struct"])
def test_days_of_the_old_calendar_are_refused(tmp_path, metadata, kind, int96, shape):
    def table(year):
        column = pa.array([dt.datetime(2020, 1, 1), None, dt.datetime(year, 10, 4)], pa.timestamp("us")).cast(kind)
        if shape == "list":
            column = pa.array([column.to_pylist(), None, []], pa.list_(kind))
        elif shape == "struct":
            column = pa.StructArray.from_arrays([pa.array([1, 2, 3]), column], names=["n", "t"])
        return pa.table({"x": column, "n": range(3)}).replace_schema_metadata(metadata)

    options = {"use_deprecated_int96_timestamps": int96}
    assert len(rows_of(write(tmp_path, table(1900), **options))) == 3
    write(tmp_path, table(1582), **options)
    for filters in (None, [("n", ">=", 0)]):
        with pytest.raises(SourceError, match=r"0\.parquet: column 'x' has a (date|timestamp) before .* Spark .* in the old cal"):
            rows_of(tmp_path, filters=filters)
    assert rows_of(tmp_path, columns=["n"]) == [{"n": 0}, {"n": 1}, {"n": 2}]


def test_row_groups_of_the_old_calendar_are_not_left_out_by_their_statistics(tmp_path):
    days = [dt.date(1200, 1, 1), dt.date(2000, 1, 1)]
    old = pa.table({"x": days}).replace_schema_metadata({b"org.apache.spark.legacyDateTime": b"", VERSION: b"3.5.1"})
    write(tmp_path, old, row_group_size=1)
    with pytest.raises(SourceError, match="before 1582-10-15"):
        rows_of(tmp_path, filters=[("x", ">", dt.date(1990, 1, 1))])


def test_other_writers_and_the_new_calendar_have_old_days(tmp_path):
    field = b'{"fields":[{"name":"x","type":%s}]}'
    broken = (b"no JSON", b"[]", *(field % kind for kind in (b"7", b'{"type":"struct","fields":[{}]}', b'{"type":"list"}')))
    for metadata in ({}, {VERSION: b"3.0.0"}, *({VERSION: b"4.3.0", ROW: text} for text in broken)):
        write(tmp_path, pa.table({"x": [dt.date(1582, 10, 10), dt.date(1, 1, 1)]}).replace_schema_metadata(metadata))
        assert values(tmp_path) == [dt.date(1582, 10, 10), dt.date(1, 1, 1)]


# ---- what only Spark's own schema says ---------------------------------------------------------------------------------------


def spark_file(folder, columns, types, **options):
    fields = [{"name": name, "type": kind, "nullable": True, "metadata": {}} for name, kind in types.items()]
    said = {ROW: json.dumps({"type": "struct", "fields": fields}).encode(), VERSION: b"4.0.0"}
    return write(folder, pa.table(columns).replace_schema_metadata(said), **options)


def test_intervals(tmp_path):
    columns = {"x": pa.array([-1, None]), "l": pa.array([[1], None]), "m": pa.array([14, 1], pa.int32()), "n": pa.array([5, 6])}
    types = {"x": "interval day to second", "l": {"type": "array", "elementType": "interval hour", "containsNull": True},
             "m": "interval year to month", "n": "long"}  # fmt: skip
    table = table_of(spark_file(tmp_path, columns, types))
    assert table.schema.types == [pa.duration("us"), pa.list_(pa.duration("us")), pa.int32(), pa.int64()]
    assert table["x"].to_pylist() == [dt.timedelta(microseconds=-1), None]
    assert table["l"].to_pylist() == [[dt.timedelta(microseconds=1)], None]


def test_types_of_users_keep_their_name(tmp_path):
    vector = {"type": "udt", "class": "org.apache.spark.ml.linalg.VectorUDT", "pyClass": "pyspark.ml.linalg.VectorUDT"}
    plain = pa.array([{"type": 1, "size": None, "indices": None, "values": [1.0]}])
    types = {"x": vector, "n": "long", "l": {"type": "array", "elementType": vector, "containsNull": True}}
    spark_file(tmp_path, {"x": plain, "n": [1], "l": pa.array([plain.to_pylist()])}, types)
    for filters in (None, [("n", "=", 1)]):
        ((batch,),) = read(parquet(tmp_path, columns=["x", "l"], filters=filters))
        assert list(nodes(batch.schema)) == [vector, {"type": "array", "elementType": vector}]
    ((batch,),) = read(parquet(tmp_path, columns=["n"]))
    assert not batch.schema.metadata
    pq.write_table(pa.table({"x": plain, "n": [2]}), tmp_path / "1.parquet")
    with pytest.raises(SourceError, match=r"'x' is org\.apache\.spark\.ml\.linalg\.VectorUDT in .* and struct<.*1\.parquet"):
        parquet(tmp_path).plan(1)
    assert values(tmp_path, columns=["n"], name="n") == [1, 2]


def test_variant(tmp_path):
    part = pa.StructArray.from_arrays([pa.array([b"m"]), pa.array([b"v"])], names=["metadata", "value"])
    table = table_of(spark_file(tmp_path, {"x": part}, {"x": "variant"}))
    assert table["x"].type == pa.struct([("value", pa.binary()), ("metadata", pa.binary())])
    assert table["x"].to_pylist() == [{"value": b"v", "metadata": b"m"}]
    names = ["metadata", "value", "typed_value"]
    shredded = pa.StructArray.from_arrays([pa.array([b"m"]), pa.array([b"v"]), pa.array([1])], names=names)
    spark_file(tmp_path, {"x": shredded, "n": [1]}, {"x": "variant", "n": "long"})
    with pytest.raises(SourceError, match=r"column 'x' of .*0\.parquet cannot be fed: Spark wrote this VARIANT shredded"):
        parquet(tmp_path).plan(1)
    assert values(tmp_path, columns=["n"], name="n") == [1]


# ---- files that differ -------------------------------------------------------------------------------------------------------

F32, F64 = pa.float32(), pa.float64()
HOLE = None if int(pa.__version__.partition(".")[0]) > 17 else [5, 6]  # older ones do not read a list of fixed size that is null
WIDER = [
    ([1.5], F32, [1e300], F64, F64),
    ([1], pa.int32(), [2**40], pa.int64(), pa.int64()),
    ([1], pa.int8(), [-(2**15)], pa.int16(), pa.int16()),
    ([2**32 - 1], pa.uint32(), [-1], pa.int32(), pa.int64()),
    ([2**31 - 1], pa.int32(), [0.5], F32, F64),
    ([2**15 - 1], pa.int16(), [0.5], F32, F32),
    ([Decimal("1.5")], pa.decimal128(4, 1), [Decimal("123.456")], pa.decimal128(6, 3), pa.decimal128(6, 3)),
    ([Decimal("123456.5")], pa.decimal128(7, 1), [Decimal("1.456")], pa.decimal128(4, 3), pa.decimal128(9, 3)),
    ([7], pa.int64(), [Decimal("1.5")], pa.decimal128(2, 1), pa.decimal128(20, 1)),
    ([None], pa.null(), ["x"], pa.string(), pa.string()),
    (["x"], pa.string(), ["y"], pa.large_string(), pa.large_string()),
    ([b"ab"], pa.binary(2), [b"c"], pa.binary(), pa.large_binary()),
    ([dt.date(2020, 1, 1)], pa.date32(), [dt.date(1, 1, 1)], pa.date64(), pa.date32()),
    ([[1]], pa.list_(pa.int32()), [[0.5, None], None], pa.list_(F64), pa.list_(F64)),
    ([[]], pa.list_(pa.null()), [["x"]], pa.list_(pa.string()), pa.list_(pa.string())),
    ([[1, 2], HOLE], pa.list_(pa.int32(), 2), [[3]], pa.list_(pa.int32()), pa.list_(pa.int32())),
    ([[1, 2], HOLE], pa.list_(pa.int32(), 2), [[3, 2**40]], pa.list_(pa.int64(), 2), pa.list_(pa.int64(), 2)),
    ([[[1]], [[2, 3], None]], pa.list_(pa.list_(pa.int8())), [[[2**40]]], pa.large_list(pa.list_(pa.int64())),
     pa.large_list(pa.list_(pa.int64()))),
    ([[("a", 1)], None], pa.map_(pa.string(), pa.int32()), [[("b", 2**40)]], pa.map_(pa.string(), pa.int64()),
     pa.map_(pa.string(), pa.int64())),
    ([{"a": 1}, None], pa.struct([("a", pa.int32())]), [{"b": "x", "a": 2**40}], pa.struct([("b", pa.string()), ("a", pa.int64())]),
     pa.struct([("a", pa.int64()), ("b", pa.string())])),
    ([[{"a": {"c": 1}}]], pa.list_(pa.struct([("a", pa.struct([("c", F32)]))])), [[{"a": {"d": 2}}]],
     pa.list_(pa.struct([("a", pa.struct([("d", F64)]))])), pa.list_(pa.struct([("a", pa.struct([("c", F32), ("d", F64)]))]))),
]  # fmt: skip


@pytest.mark.parametrize("case", WIDER, ids=lambda case: f"{case[1]}, {case[3]}")
@pytest.mark.parametrize("flip", [False, True])
def test_a_type_that_holds_the_values_of_all_files(tmp_path, case, flip):
    (some, kind, others, other, whole), together = case, []
    sides = [(some, kind), (others, other)]
    for i, (column, of) in enumerate(reversed(sides) if flip else sides):
        pq.write_table(pa.table({"x": pa.array(column, of)}), tmp_path / f"{i}.parquet")
        together += column
    table = table_of(tmp_path)
    if pa.types.is_struct(whole) and flip:
        whole = pa.struct([whole.field(1), whole.field(0)])
    assert str(table["x"].type).replace("element", "item") == str(whole) or flip
    table.validate(full=True)
    assert table["x"].to_pylist() == pa.array(together, whole if not flip else table["x"].type).to_pylist()


def test_slices_and_nulls_of_nested_columns(tmp_path):
    items = [{"a": j, "b": None if j % 3 == 0 else [float(j)] * (j % 4)} for j in range(5)]
    rows = [None if i % 7 == 0 else items[: i % 5] for i in range(500)]
    narrow = pa.list_(pa.struct([("a", pa.int32()), ("b", pa.list_(F32))]))
    wide = pa.list_(pa.struct([("c", pa.string()), ("b", pa.list_(F64)), ("a", pa.int64())]))
    last = [[{"c": "x", "a": 2**40, "b": [1e300]}]]
    write(tmp_path, {"x": pa.array(rows, narrow)}, {"x": pa.array(last, wide)}, row_group_size=200)
    splits, reader = parquet(tmp_path, splits=1).plan(1)
    found = [row for batch in reader.batches(splits[0], 600) for row in batch["x"].to_pylist()]
    expected = pa.array([*rows, *last], pa.list_(pa.struct(
        [("a", pa.int64()), ("b", pa.list_(F64)), ("c", pa.string())]))).to_pylist()  # fmt: skip
    assert found == expected


KEPT_APART = [
    (pa.bool_(), pa.int32()), (pa.date32(), pa.timestamp("us")), (pa.string(), pa.int64()), (pa.int64(), F64),
    (pa.int64(), pa.uint64()),
    (pa.string(), pa.binary()), (pa.decimal128(38, 0), pa.decimal128(38, 1)), (pa.decimal128(5, 2), F64), (pa.bool_(), F32),
    (pa.int64(), pa.timestamp("us")), (pa.list_(pa.int32()), pa.int32()), (pa.list_(pa.bool_()), pa.list_(pa.int8())),
    (pa.struct([("a", pa.bool_())]), pa.struct([("a", pa.int8())])), (pa.struct([("a", pa.bool_())]), pa.bool_()),
    (pa.map_(pa.string(), pa.string()), pa.map_(pa.string(), pa.int8())), (pa.int64(), pa.duration("us")),
    (pa.time64("us"), pa.int64()),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), KEPT_APART, ids=str)
def test_types_that_no_type_holds_are_refused_by_name(tmp_path, one, other):
    write(tmp_path, {"n": [1], "x": pa.array([None], one)}, {"n": [2], "x": pa.array([None], other)})
    part = r"(\.(a|element|value))?"
    with pytest.raises(SourceError, match=rf"column 'x{part}' is .* in .*/0\.parquet and .* in .*/1\.parquet, and no type"):
        parquet(tmp_path).plan(1)
    assert values(tmp_path, columns=["n"], name="n") == [1, 2]
    assert values(tmp_path, columns=["n"], name="n", filters=[("n", "=", 2)]) == [2]
    with pytest.raises(SourceError, match="no type holds both"):
        parquet(tmp_path, columns=["n"], filters=pc.field("x").is_valid()).plan(1)


def test_columns_that_some_files_lack(tmp_path):
    required = pa.schema([pa.field("n", pa.int64(), nullable=False), pa.field("x", pa.string(), nullable=False)])
    write(tmp_path, pa.table({"n": [1], "x": ["a"]}, required), {"y": [0.5], "n": [2]}, {"x": ["c"], "y": [1.5], "n": [3]})
    assert rows_of(tmp_path) == [{"n": 1, "x": "a", "y": None}, {"n": 2, "x": None, "y": 0.5}, {"n": 3, "x": "c", "y": 1.5}]
    assert rows_of(tmp_path, columns=["y", "x"])[0] == {"y": None, "x": "a"}
    assert values(tmp_path, filters=pc.field("x").is_null(), name="n") == [2]
    assert values(tmp_path, filters=[("y", ">", 1)], name="n") == [3]


def test_statistics_of_another_type_do_not_mislead(tmp_path):
    write(tmp_path, {"x": pa.array([1, 200], pa.int16())}, {"x": pa.array([0.5, 1e300])}, {"x": pa.array([None, None], pa.null())})
    assert values(tmp_path, filters=[("x", ">", 0.75)]) == [1.0, 200.0, 1e300]
    assert values(tmp_path, filters=pc.field("x").is_null()) == [None, None]


def test_upper_and_lower_case(tmp_path):
    struct = pa.array([{"a": 2}])
    write(tmp_path, {"Id": [1], "S": pa.array([{"A": 1}])}, {"s": struct, "ID": [2]})
    assert rows_of(tmp_path) == [{"Id": 1, "S": {"A": 1}}, {"Id": 2, "S": {"A": 2}}]
    assert values(tmp_path, filters=[("Id", ">", 1)], name="Id") == [2]
    with pytest.raises(SourceError, match=r"has no column 'id', 's'; it has 'Id', 'S'; did you mean 'Id', 'S'\?"):
        parquet(tmp_path, columns=["id", "s"]).plan(1)
    pq.write_table(pa.table({"id": [3], "ID": [4]}), tmp_path / "2.parquet")  # now they are different columns
    expected = [(1, None, None), (None, 2, None), (None, 4, 3)]
    assert [(row["Id"], row["ID"], row["id"]) for row in rows_of(tmp_path)] == expected
    assert values(tmp_path, columns=["ID"], name="ID") == [None, 2, 4]


def test_two_columns_of_one_name_are_refused(tmp_path):
    pq.write_table(pa.table([[1], [2], [3]], names=["x", "x", "n"]), tmp_path / "0.parquet")
    with pytest.raises(SourceError, match=r"column 'x' of .*0\.parquet cannot be fed: the file has two columns of this name"):
        parquet(tmp_path).plan(1)
    assert values(tmp_path, columns=["n"], name="n") == [3]


def test_names_with_dots(tmp_path):
    write(tmp_path, {"a.b": [1], "a": pa.array([{"b": 2, "c": 3}]), "`": [4]})
    assert rows_of(tmp_path) == [{"a.b": 1, "a": {"b": 2, "c": 3}, "`": 4}]
    assert rows_of(tmp_path, columns=["a.b"]) == [{"a.b": 1}]
    with pytest.raises(SourceError, match=r"no column 'a\.c'; .*; name whole columns, not fields of structs"):
        parquet(tmp_path, columns=["a.c"]).plan(1)


# ---- directories, footers ----------------------------------------------------------------------------------------------------


def test_directory_columns_have_types(tmp_path):
    null = "__HIVE_DEFAULT_PARTITION__"
    for i, parts in enumerate(("d=2020-01-02/f=1/g=true/h=99999999999/i=x/", f"d=2021-01-02/f=2.5/g=false/h=1/i={null}/")):
        (tmp_path / parts).mkdir(parents=True)
        write(tmp_path / parts, {"n": [i], "g": [i]})
    table = table_of(tmp_path)
    assert table.schema.names == ["n", "g", "d", "f", "h", "i"]
    assert table.to_pylist() == [
        {"n": 0, "g": "true", "d": dt.date(2020, 1, 2), "f": 1.0, "h": 99999999999, "i": "x"},
        {"n": 1, "g": "false", "d": dt.date(2021, 1, 2), "f": 2.5, "h": 1, "i": None},
    ]
    for filters in ([("d", ">", "2020-12-31")], [("f", ">", 2)], pc.field("i").is_null(), [("h", "<", 10)], [("g", "=", "false")]):
        splits, _ = parquet(tmp_path, filters=filters).plan(1)
        assert len(splits) == 1
        assert values(tmp_path, filters=filters, name="n") == [1]
    splits, reader = parquet(tmp_path).plan(1, {"spark.sql.sources.partitionColumnTypeInference.enabled": "false"})
    assert reader.schema.field("d").type == pa.string()


def test_files_beside_directories_lack_their_columns(tmp_path):
    (tmp_path / "_day=3").mkdir()
    write(tmp_path, {"n": [1]})
    write(tmp_path / "_day=3", {"n": [2]})
    assert rows_of(tmp_path) == [{"n": 1, "_day": None}, {"n": 2, "_day": 3}]


def test_each_footer_is_read_once_by_the_driver(tmp_path):
    for day in (1, 2, 3):
        (tmp_path / f"day={day}").mkdir()
        write(tmp_path / f"day={day}", {"x": [day], "n": [0.5]}, {"x": [day], "n": [day]})
    counting = Counting()
    system = fs.PyFileSystem(counting)
    parquet(str(tmp_path), filesystem=system, columns=["x"]).plan(4)
    assert sorted(counting.opened.values()) == [1] * 6
    counting.opened.clear()
    parquet(str(tmp_path), filesystem=system, columns=["x"], filters=[("day", "=", 3), ("x", ">", 0)]).plan(4)
    assert {path.split("/")[-2] for path in counting.opened} == {"day=1", "day=3"}  # the first file tells the columns
    assert sorted(counting.opened.values()) == [1] * 3
    counting.opened.clear()
    assert parquet(str(tmp_path), filesystem=system, filters=[("day", "=", 9)]).plan(4)[0] == []
    assert sorted(counting.opened.values()) == [1]


def test_a_filter_that_only_later_files_fit(tmp_path):
    for day, column in ((1, pa.array([None], pa.null())), (2, pa.array([7]))):
        (tmp_path / f"day={day}").mkdir()
        write(tmp_path / f"day={day}", {"x": column})
    assert rows_of(tmp_path, filters=[("day", "=", 2), ("x", ">", 3)]) == [{"x": 7, "day": 2}]


# ---- filters and columns that are none ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ("x > 3", r"not the text 'x > 3': write \[\(\"x\", \">\", 3\)\]"), ("x", r"filters is a list of .*not the text 'x'"),
        (("x", ">", 3), r"lacks the list around it: \[\('x', '>', 3\)\]"), ([], r"without filters=, all rows"), ({}, "not {}"),
        ({"x": 3}, "not {'x': 3}"), ([("x", ">")], r"not \('x', '>'\)"),
        ([("x", "~", 3)], r"the operator '~'; the operators are ="),
        ([("x", "in", "abc")], r"'in' takes a list of values: \('x', 'in', \['abc'\]\)"),
        ([("x", "=", None)], r"field\('x'\)\.is_null\(\)"),
        ([[("x", "!=", None)]], r"~pyarrow\.compute\.field\('x'\)\.is_null\(\)"),
        (lambda row: True, "filters is a list of"), ([("x", ">", 1), [("x", "<", 5)]], "mixes conditions"), ([1, 2, 3], "not 1"),
        ([[]], r"not \[\]"), (["x", ">", 3], "lacks the list around"),
    ],
)  # fmt: skip
def test_what_is_no_filter(filters, message):
    with pytest.raises(ValueError, match=message):
        parquet("/nowhere", filters=filters)


@pytest.mark.parametrize(
    "filters", [[("x", ">", "a")], [("t", ">", 3)], pc.field("q") > 3, pc.add(pc.field("x"), 1), [("d", "=", "soon")]]
)
def test_filters_that_do_not_fit_the_columns(tmp_path, filters):
    write(tmp_path, {"x": [1], "t": ["a"], "d": [dt.date(2020, 1, 1)]})
    with pytest.raises(SourceError, match=r"the filter .* does not fit the columns \(x: int64, t: string, d: date32\[day\]\)"):
        parquet(tmp_path, filters=filters).plan(1)


def test_columns_that_are_no_names():
    with pytest.raises(ValueError, match=r"columns is a list of names \(text\): \[0, 1\]"):
        parquet("/nowhere", columns=[0, 1])
    with pytest.raises(ValueError, match="each once"):
        parquet("/nowhere", columns=(name for name in ("a", "a")))
    assert parquet("/nowhere", columns=(name for name in "ab")).columns == ("a", "b")


def test_files_of_one_kind_are_handed_on_as_they_are(tmp_path):
    """No column of theirs is rebuilt: types are those that pyarrow reads, item names and nullability included."""
    kind = pa.list_(pa.field("element", pa.float32(), nullable=False))
    write(tmp_path, {"x": pa.array(np.ones((4, 3), np.float32).tolist(), kind)}, {"x": pa.array([[1.0]], kind)})
    table = table_of(tmp_path)
    assert table["x"].type.value_field == kind.value_field
