"""Columns that directories name. Types and values are Spark 4.3's; tests/spark/test_columnar_types.py asks Spark itself."""

from __future__ import annotations

import itertools
import math
from datetime import date
from decimal import Decimal

import pyarrow as pa
import pytest

from tfos_fast.cluster.files.hive import Inference, keys_of, typed
from tfos_fast.errors import SourceError

NULL = "__HIVE_DEFAULT_PARTITION__"
BERLIN = Inference(zone="Europe/Berlin")
MOMENT = 1577930645 * 10**6  # 2020-01-02 03:04:05 in Berlin


def column(*raws, how=BERLIN):
    """Type and values of a column."""
    kinds, rows = typed([{"p": raw} for raw in raws], how)
    return str(kinds["p"]), [row["p"] for row in rows]


@pytest.mark.parametrize(
    ("raw", "kind", "value"),
    [
        ("1", "int32", 1), ("+1", "int32", 1), ("007", "int32", 7), ("2147483648", "int64", 2**31),
        ("-2147483649", "int64", -(2**31) - 1), ("9223372036854775808", "decimal128(19, 0)", Decimal(2**63)),
        ("1" * 38, "decimal128(38, 0)", Decimal("1" * 38)), ("1" * 39, "double", float("1" * 39)),
        ("5.", "decimal128(1, 0)", Decimal(5)), ("1e5", "decimal128(6, 0)", Decimal(100000)), ("1.5", "double", 1.5),
        (".5", "double", 0.5), ("1E400", "double", math.inf), ("1d", "double", 1.0), ("0x1p3", "double", 8.0),
        ("-Infinity", "double", -math.inf), (" 1", "double", 1.0), ("inf", "string", "inf"), ("0x10", "string", "0x10"),
        ("true", "string", "true"), ("2020-01-02", "date32[day]", date(2020, 1, 2)), ("0001-01-01", "date32[day]", date(1, 1, 1)),
        ("9999-12-31", "date32[day]", date(9999, 12, 31)), ("2020-1-2", "string", "2020-1-2"),
        ("2020-02-30", "string", "2020-02-30"), ("20200102", "int32", 20200102), ("2020-01", "string", "2020-01"),
        ("2020-01-02 03:04:05", "timestamp[us, tz=UTC]", MOMENT),
        ("2020-01-02 03%3A04%3A05.1", "timestamp[us, tz=UTC]", MOMENT + 100_000),
        ("2020-01-02T03:04:05", "string", "2020-01-02T03:04:05"),
        ("2020-03-29 02:30:00", "timestamp[us, tz=UTC]", 1585445400 * 10**6),  # in the gap of summer time
        ("2020-10-25 02:30:00", "timestamp[us, tz=UTC]", 1603585800 * 10**6),  # the first of two
        (NULL, "null", None), ("a%20b", "string", "a b"), ("a+b", "string", "a+b"), ("1%2E5", "string", "1.5"),
        ("1_000", "string", "1_000"),
    ],
)  # fmt: skip
def test_one_value(raw, kind, value):
    assert column(raw) == (kind, [value])


def test_not_a_number():
    kind, (value,) = column("NaN")
    assert kind == "double"
    assert math.isnan(value)


ONE = {
    "int": "1", "long": "2147483648", "decimal": "1" * 20, "double": "1.5", "date": "2020-01-02",
    "timestamp": "2020-01-02 03:04:05", "string": "x", "null": NULL,
}  # fmt: skip
WIDER = {("int", "long"): "int64", ("int", "decimal"): "decimal128(20, 0)", ("long", "decimal"): "decimal128(20, 0)",
         ("int", "double"): "double", ("date", "timestamp"): "timestamp[us, tz=UTC]"}  # fmt: skip


@pytest.mark.parametrize(("a", "b"), list(itertools.combinations(ONE, 2)))
def test_two_kinds_of_values(a, b):
    kind, values = column(ONE[a], ONE[b])
    assert (kind, values[::-1]) == column(ONE[b], ONE[a])
    expected = column(ONE[a])[0] if b == "null" else WIDER.get((a, b), "string")
    assert kind == expected
    if expected == "string":
        assert values == [ONE[a], None if b == "null" else ONE[b]]


def test_three_kinds():
    assert column("1", "1.5", "2147483648") == ("string", ["1", "1.5", "2147483648"])
    assert column("1", NULL, "2") == ("int32", [1, None, 2])
    assert column("2020-01-02", ONE["timestamp"])[1] == [MOMENT - (3 * 3600 + 4 * 60 + 5) * 10**6, MOMENT]


def test_a_file_without_the_column():
    kinds, rows = typed([{"a": "1"}, {"b": "x"}], BERLIN)
    assert kinds == {"a": pa.int32(), "b": pa.string()}
    assert rows == [{"a": 1, "b": None}, {"a": None, "b": "x"}]


def test_settings_of_spark():
    text = Inference.of({"spark.sql.sources.partitionColumnTypeInference.enabled": "false"})
    assert column("1", NULL, "a%20b", how=text) == ("string", ["1", None, "a b"])
    assert column("1", how=Inference.of({})) == ("int32", [1])
    for zone, hours in (("GMT+2", 2), ("+02:00", 2), ("UTC-3", -3), ("Z", 0), ("America/New_York", -5)):
        _, (value,) = column("2020-01-02 03:04:05", how=Inference.of({"spark.sql.session.timeZone": zone}))
        assert value == MOMENT + (1 - hours) * 3600 * 10**6
    with pytest.raises(SourceError, match=r"spark\.sql\.session\.timeZone is 'Mars'"):
        column("2020-01-02 03:04:05", how=Inference.of({"spark.sql.session.timeZone": "Mars"}))
    assert column("1", how=Inference.of({"spark.sql.session.timeZone": "Mars"})) == ("int32", [1])


def test_keys():
    assert keys_of("/data/a=1/b%20c=x%2Fy/f.parquet", "/data") == {"a": "1", "b c": "x%2Fy"}
    assert keys_of("/data/a=1/f=2.parquet", "") == {"a": "1"}
    assert keys_of("/x=1/data/a=b=c/f.parquet", "/x=1/data") == {"a": "b=c"}
    wrong = (("/=1/f", "no 'name=value'"), ("/a=/f", "no 'name=value'"), ("/a=1/a=2/f", "'a' twice"), ("/a=1/A=2/f", "'A' twice"))
    for path, message in wrong:
        with pytest.raises(SourceError, match=message):
            keys_of(path, "")


def test_names_that_differ_in_case_only_are_one_column():
    kinds, values = typed([{"Day": "1", "b": "x"}, {"day": "2", "b": "y"}, {"DAY": "3000000000"}], Inference())
    assert {name: str(kind) for name, kind in kinds.items()} == {"Day": "int64", "b": "string"}
    assert values == [{"Day": 1, "b": "x"}, {"Day": 2, "b": "y"}, {"Day": 3_000_000_000, "b": None}]
