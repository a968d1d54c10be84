"""Dates, times, durations and decimals in rows: their numbers and ranges, and that numbers of different units share no column."""

from __future__ import annotations

import datetime as dt
import decimal
import itertools
import math
import os
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import fed
from tests.support.helpers import broker_here, ended, in_thread
from tests.support.rows import same
from tfos_fast import MASK
from tfos_fast.channel import Channel
from tfos_fast.channel.broker.schema_agreement import Agreement
from tfos_fast.channel.protocol import messages as m
from tfos_fast.channel.schema.detect import infer
from tfos_fast.errors import SchemaMismatch
from tfos_fast.tf.declarations import row_spec
from tfos_fast.values.special import as_number

UTC = dt.timezone.utc
DAY, HOUR = 86_400_000_000, 3_600_000_000
EPOCH = dt.datetime(1970, 1, 1)
way = pytest.mark.parametrize("pickled", [False, True], ids=["rows", "pickled"])


@pytest.fixture(params=["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata"])
def zone(request: pytest.FixtureRequest) -> Iterator[str]:
    before = os.environ.get("TZ")
    os.environ["TZ"] = request.param
    time.tzset()
    yield request.param
    os.environ.pop("TZ")
    if before is not None:
        os.environ["TZ"] = before
    time.tzset()


def number(value: Any) -> Any:
    tagged = as_number(value)
    return None if tagged is None else tagged[0].tolist()


KINDS: dict[str, list[Any]] = {
    "date": [dt.date(1970, 1, 2), dt.date(1, 1, 1), dt.date(9999, 12, 31)],
    "timestamp": [dt.datetime(2020, 1, 1, tzinfo=UTC), np.datetime64("2020-01-01"), dt.datetime(2020, 1, 1), pd.Timestamp(0)],
    "duration": [dt.timedelta(1), pd.Timedelta("1D"), np.timedelta64(1, "s")],
    "number": [1, 2.5, True, np.float32(1), decimal.Decimal("1.5")],
    "text": ["text"],
    "list": [[1, 2]],
    "dates": [[dt.date(1970, 1, 2)]],
    "durations": [[dt.timedelta(1)]],
}


@way
@pytest.mark.parametrize("between", [False, True], ids=["rows", "writers"])
@pytest.mark.parametrize("one", KINDS)
@pytest.mark.parametrize("other", KINDS)
def test_values_of_several_kinds_share_no_column(one: str, other: str, between: bool, pickled: bool) -> None:
    counted = ("date", "timestamp", "duration", "dates", "durations")
    for a in KINDS[one][:2]:
        for b in KINDS[other][:2]:
            writers = [[(a,)], [(b,)]] if between else [[(a,), (None,), (b,)]]
            if {one, other} in ({"date", "dates"}, {"duration", "durations"}):
                continue  # objects of one unit
            if one != other and (one in counted or other in counted):
                found = r"row [02]: column 'c0': expected .*, found values of several kinds.*'object'"
                with pytest.raises(SchemaMismatch, match=found):
                    fed.columns(writers, nulls=MASK, pickled=pickled)
                with pytest.raises(SchemaMismatch, match="values of several kinds"):
                    fed.columns(writers, pickled=pickled)
            else:
                fed.columns(writers, nulls=MASK, pickled=pickled)
            values = [row[0] for part in writers for row in part]
            # Two writers' rows come in either order.
            assert sorted(map(repr, fed.rows(writers, pickled=pickled))) == sorted(repr((value,)) for value in values)
            whole = fed.columns(writers, spec={"c0": "object"}, pickled=pickled)["c0"]
            assert sorted(map(repr, whole)) == sorted(map(repr, map(as_python, values)))


def as_python(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.generic) else value


def test_kinds_do_not_meet_behind_the_first_batch_either() -> None:
    for later in (dt.datetime(2020, 1, 1), dt.timedelta(1), 7, [dt.date(1970, 1, 2)]):
        rows = [(dt.date(1970, 1, 2),)] * 100 + [(later,)]
        with pytest.raises(SchemaMismatch, match=r"row 100: column 'c0': expected int32 \(date\), found"):
            fed.columns([rows], n=10)


def test_numbers_and_times_of_one_unit_share_a_column() -> None:
    moment = dt.datetime(2020, 1, 1, tzinfo=UTC)
    us = (dt.datetime(2020, 1, 1) - EPOCH) // dt.timedelta(microseconds=1)
    aware = [moment, moment.astimezone(dt.timezone(dt.timedelta(hours=5))), moment.astimezone().replace(tzinfo=None)]
    stamps = [pd.Timestamp(moment), np.datetime64("2020-01-01"), np.datetime64("2020-01-01T00:00:00.000000999", "ns")]
    assert fed.columns([[(value,) for value in aware + stamps]])["c0"] == [us] * 6
    spans = [dt.timedelta(seconds=1), pd.Timedelta("1s"), np.timedelta64(1, "s"), np.timedelta64(1000, "ms")]
    assert fed.columns([[(value,) for value in spans]])["c0"] == [1_000_000] * 4
    assert fed.columns([[(1,), (True,), (decimal.Decimal("2.5"),), (np.float32(0.5),)]])["c0"] == [1.0, 1.0, 2.5, 0.5]


@way
def test_nulls_beside_dates_stay_numbers_whichever_comes_first(pickled: bool) -> None:
    """Without a policy the column is one of objects: of numbers and None, as from a DataFrame."""
    for values, numbers in [
        ([dt.date(1970, 1, 2), None, dt.date(1970, 1, 3)], [1, None, 2]),
        ([None, dt.datetime(1970, 1, 2, tzinfo=UTC)], [None, DAY]),
        ([None, pd.NaT, pd.Timedelta("1D"), np.timedelta64("NaT")], [None, None, DAY, None]),
        ([decimal.Decimal("1.5"), None, decimal.Decimal("2.5")], [1.5, None, 2.5]),
        ([[dt.date(1970, 1, 2)], None, [dt.date(1970, 1, 2), dt.date(1970, 1, 3)]], [[1], None, [1, 2]]),
        ([None, [[dt.date(1970, 1, 2)], []]], [None, [[1], []]]),
        ([None, [], [decimal.Decimal("1.5")]], [None, [], [1.5]]),
    ]:
        rows = [(value,) for value in values]
        turned = [*numbers[1:], *numbers[:1]]
        for writers, wanted in (([rows], numbers), ([rows[:1], rows[1:]], numbers), ([rows[1:], rows[:1]], turned)):
            got = fed.columns(writers, pickled=pickled)["c0"]
            assert [np.asarray(each).tolist() if isinstance(each, np.ndarray) else _lists(each) for each in got] == wanted


def _lists(value: Any) -> Any:
    return list(map(_lists, value)) if isinstance(value, list | np.ndarray) else value


@way
def test_not_a_time_is_a_null(pickled: bool) -> None:
    for nat, value, expected in [
        (pd.NaT, pd.Timestamp("1970-01-02", tz="UTC"), DAY),
        (np.datetime64("NaT"), np.datetime64("1970-01-02"), DAY),
        (np.timedelta64("NaT", "s"), dt.timedelta(1), DAY),
        (pd.NaT, dt.date(1970, 1, 2), 1),
        (pd.NA, 5, 5),
    ]:
        for rows in ([(nat,), (value,), (nat,)], [(value,), (nat,)], [(value,), (None,), (nat,)]):
            masked = fed.columns([rows], nulls=MASK, pickled=pickled)
            assert masked["c0_mask"] == [row[0] is value for row in rows]
            assert masked["c0"] == [expected if row[0] is value else 0 for row in rows]
            assert fed.columns([rows], nulls=-1, pickled=pickled)["c0"] == [expected if row[0] is value else -1 for row in rows]
            with pytest.raises(SchemaMismatch, match="None, and nothing says what becomes of it"):
                fed.columns([rows], tensors=True, pickled=pickled)
        assert same(fed.rows([[(value,), (value,)]], pickled=pickled), [(value,), (value,)])
    got = fed.rows([[(pd.NaT, np.datetime64("NaT"), None)]], pickled=pickled)[0]
    assert (got[0], got[2]) == (pd.NaT, None)
    assert np.isnat(got[1])
    with pytest.raises(SchemaMismatch, match=r"None at index \[1\] inside its list"):
        fed.columns([[(np.array(["1970-01-02", "NaT"], "M8[s]"),)]], tensors=True)


def test_naive_times_are_local_up_to_the_ends_of_the_calendar(zone: str) -> None:
    from zoneinfo import ZoneInfo

    here = ZoneInfo(zone)
    for wall in [
        dt.datetime(1, 1, 1),
        dt.datetime(1, 1, 1, 23),
        dt.datetime(1, 12, 31),
        dt.datetime(1900, 1, 1),
        dt.datetime(1970, 1, 1),
        dt.datetime(2020, 7, 1, 12),
        dt.datetime(2021, 10, 31, 2, 30),
        dt.datetime(2021, 10, 31, 2, 30, fold=1),
        dt.datetime(2500, 7, 1),
        dt.datetime(9998, 12, 31),
        dt.datetime(9999, 12, 31, 23, 59, 59, 999999),
    ]:
        offset = wall.replace(tzinfo=here).utcoffset()
        assert offset is not None
        expected = (wall - EPOCH) // dt.timedelta(microseconds=1) - offset // dt.timedelta(microseconds=1)
        assert number(wall) == expected, (zone, wall)
        assert number(wall.replace(tzinfo=here)) == expected
        if wall.year > 1677 and wall.year < 2262:
            assert number(pd.Timestamp(wall)) == expected
    assert (
        number(dt.datetime.min.replace(tzinfo=dt.timezone(dt.timedelta(hours=23))))
        == number(dt.datetime.min.replace(tzinfo=UTC)) - 23 * HOUR
    )
    assert (
        number(dt.datetime.max.replace(tzinfo=dt.timezone(-dt.timedelta(hours=23))))
        == number(dt.datetime.max.replace(tzinfo=UTC)) + 23 * HOUR
    )


NS = {"W": 604_800 * 10**9, "D": 86_400 * 10**9, "h": 3600 * 10**9, "m": 60 * 10**9, "s": 10**9, "ms": 10**6, "us": 1000, "ns": 1}
PER_MICROSECOND = {"ns": 1000, "ps": 10**6, "fs": 10**9, "as": 10**12}


@given(
    st.integers(-(2**63) + 1, 2**63 - 1) | st.integers(-(10**6), 10**6), st.sampled_from([*NS, "ps", "fs", "as"]), st.integers(1, 9)
)
@settings(max_examples=400, deadline=None)
def test_units_of_numpy_are_floored_or_refused(count: int, unit: str, step: int) -> None:
    exact = count * step * NS[unit] // 1000 if unit in NS else count * step // PER_MICROSECOND[unit]
    for kind in (np.datetime64, np.timedelta64):
        if not -(2**63) < count * step < 2**63:
            continue  # numpy's own arithmetic wraps
        value = kind(count, f"{step}{unit}") if step > 1 else kind(count, unit)
        for each in (value, np.array([value, value]), [value]):
            if -(2**63) < exact < 2**63:
                got = as_number(each) if not isinstance(each, list) else None
                assert got is None or set(np.atleast_1d(got[0]).tolist()) == {exact}
                assert fed_one(each) == exact
            else:
                with pytest.raises(SchemaMismatch, match=f"outside of 64 bits of microseconds \\(its unit is {unit}\\)"):
                    from tfos_fast.values.dtypes import as_tagged

                    as_tagged(each)


def fed_one(value: Any) -> int:
    from tfos_fast.values.dtypes import as_tagged

    tagged = as_tagged(value)
    assert tagged is not None
    return int(tagged[0].ravel()[0])


@way
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.datetime64(2**60, "s"), r"np.datetime64\('36534630048-05-13T13:56:16'\) is outside of 64 bits.*unit is s"),
        (np.timedelta64(2**60, "s"), r"np.timedelta64\(1152921504606846976,'s'\) is outside"),
        (np.datetime64(10**6, "Y"), "unit is Y"),
        (np.array([0, 2**60], "M8[ms]"), "is outside of 64 bits of microseconds"),
        ([np.datetime64(1, "s"), np.datetime64(2**60, "s")], "is outside of 64 bits of microseconds"),
        (np.timedelta64(1, "M"), "has a unit without a fixed length"),
        (np.timedelta64(5), "has no unit"),
        (dt.timedelta.max, r"datetime.timedelta\(days=999999999.*is outside of 64 bits of microseconds"),
        (decimal.Decimal("1e400"), r"Decimal\('1E\+400'\) is outside of float64"),
        ([decimal.Decimal("1e400")], "is outside of float64"),
    ],
    ids=repr,
)
def test_what_is_beyond_its_type_is_refused_with_its_value(value: Any, message: str, pickled: bool) -> None:
    for rows in ([(1, value)], [(1, value[:0] if isinstance(value, list | np.ndarray) else None), (2, value)]):
        with pytest.raises(SchemaMismatch, match=rf"row {len(rows) - 1}: column 'c1': .*{message}"):
            fed.columns([rows], nulls=MASK, pickled=pickled)
        assert same(fed.rows([rows], pickled=pickled), rows)
        fed.columns([rows], spec={"c1": "object"}, pickled=pickled)
        assert fed.columns([rows], spec={"c0": "int64"}, only=True, pickled=pickled) == {"c0": [row[0] for row in rows]}


def test_a_spec_may_come_before_the_first_value() -> None:
    rows = [(None,), (dt.datetime(1970, 1, 2, tzinfo=UTC),), (None,)]
    assert fed.columns([rows], spec={"c0": ("int64", ())}, nulls=-1)["c0"] == [-1, DAY, -1]
    assert fed.columns([[(None,)] * 9, rows], n=3, spec={"c0": ("int64", ())}, nulls=-1)["c0"] == [-1] * 10 + [DAY, -1]
    assert fed.columns([[([],)], [([dt.date(1970, 1, 2)],)]], spec={"c0": ("int32", (None,))})["c0"] == [[], [1]]
    assert fed.columns([[(dt.date(1970, 1, 2),)]], spec={"c0": "float32"})["c0"] == [1.0]
    with pytest.raises(SchemaMismatch, match="values of several kinds"):
        fed.columns([[(dt.date(1970, 1, 2),), (5,)]], spec={"c0": ("int64", ())})


@way
@pytest.mark.parametrize(
    ("values", "numbers"),
    [
        ([[dt.date(1970, 1, 2), dt.date(1970, 1, 3)], [dt.date(1970, 1, 4)] * 2], [[1, 2], [3, 3]]),
        ([[dt.date(1970, 1, 2)], [], [dt.date(1970, 1, 4)] * 2], [[1], [], [3, 3]]),
        ([[], (dt.timedelta(1),)], [[], [DAY]]),
        ([[dt.datetime(1970, 1, 2, tzinfo=UTC)], [np.datetime64("1970-01-02")]], [[DAY], [DAY]]),
        ([[decimal.Decimal("0.5"), 1], [decimal.Decimal("2")]], [[0.5, 1.0], [2.0]]),
        ([[[dt.date(1970, 1, 2)], []], [[]]], [[[1], []], [[]]]),
        ([[[]], [[], []], [[dt.date(1970, 1, 2)]]], [[[]], [[], []], [[1]]]),
        ([np.array(["1970-01-02"], "M8[D]"), np.array([], "M8[s]"), []], [[DAY], [], []]),
        ([np.array([dt.date(1970, 1, 2)], object), [dt.date(1970, 1, 2)]], [[1], [1]]),
        ([np.array([1, 2], object), [3, 4]], [[1, 2], [3, 4]]),
        ([[np.datetime64(2**40, "s"), np.datetime64(1000, "ns")]], [[2**40 * 10**6, 1]]),
    ],
    ids=repr,
)
def test_lists_of_dates_times_and_decimals_are_numbers(values: list[Any], numbers: list[Any], pickled: bool) -> None:
    assert fed.columns([[(value,) for value in values]], pickled=pickled)["c0"] == numbers
    assert fed.columns([[(value,)] for value in values], pickled=pickled)["c0"] == numbers
    with_none = fed.columns([[(None,), *((value,) for value in values)]], nulls=MASK, pickled=pickled)
    assert with_none["c0"][1:] == numbers
    assert with_none["c0_mask"] == [False, *[True] * len(values)]


def test_signalling_nans() -> None:
    bits = 0x7FF4000000000001
    snan = np.array([bits], np.uint64).view(np.float64)
    got = fed.columns([[(snan[0], snan, snan.tolist(), float(snan[0]))]])
    assert math.isnan(got["c0"][0])
    rows = [(snan, snan[0])]
    back = fed.rows([rows])[0]
    assert back[0].view(np.uint64).tolist() == [bits]
    assert back[1].view(np.uint64) == bits
    assert math.isnan(fed.columns([[(decimal.Decimal("sNaN"),)]])["c0"][0])
    assert math.isnan(fed.columns([[([decimal.Decimal("sNaN"), decimal.Decimal("1")],)]])["c0"][0][0])
    assert str(fed.rows([[(decimal.Decimal("sNaN"),)]])[0][0]) == "sNaN"


def types(writers: list[list[Any]], *, spec: Any = None, n: int = 64) -> set[str]:
    """Element types of column c0 in all batches."""
    with broker_here("1m", "16k", end_after=1) as broker, Channel.attach(broker.address) as channel:
        thread, out = in_thread(lambda: fed.write(channel, writers))
        with channel.reader() as reader:
            reader.open_columns(n, row_spec(spec) if spec else None, wait=False)
            found = {str(batch["c0"].values.dtype) for batch in reader.batches(n)}
        ended(thread)
        assert out == [None]
        return found


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([[], [[]], [[1]]], "int64"),
        ([[], [[]], [[dt.date(1970, 1, 2)]]], "int32"),
        ([[[]], [[], [dt.date(1970, 1, 2)]]], "int32"),
        ([[[], [[]]], [[[1]]]], "int64"),
        ([[], [[]], [["a"]]], "object"),
        ([[], [[]], [[np.float32(1)]]], "float32"),
    ],
    ids=repr,
)
def test_lists_without_items_leave_the_type_to_the_others_in_any_order(values: list[Any], dtype: str) -> None:
    """They made whole numbers and dates float64, where two of several depths came first."""
    for order in itertools.permutations(values):
        rows = [(value,) for value in order]
        assert types([rows]) == {dtype}
        assert types([[row] for row in rows]) == {dtype}


def test_lists_without_items_are_of_the_type_of_the_spec() -> None:
    for dtype in ("int32", "uint8", "string"):
        rows = [([],), ([[]],), ([[], []],), ([["a"]] if dtype == "string" else [[1]],)]
        for order in itertools.permutations(rows):
            for spec in [{"c0": (dtype, (None, None))}] + ([{"c0": dtype}] if dtype != "string" else []):
                assert types([list(order)], spec=spec) == {"object" if dtype == "string" else dtype}


def test_lists_without_items_up_to_the_first_batch_keep_its_type() -> None:
    form, agreement = m.Form("columns", 8), Agreement()
    for row in (([],), ([[]],)):
        agreement.propose(infer(row, exact=False), form)
    _, pinned = agreement.pin() or (0, None)
    assert pinned is not None
    assert (pinned.columns[0].dtype, pinned.columns[0].shape) == ("float64", (-1, -1))
    _, schema = agreement.propose(infer(([[1]],), exact=False), form)
    assert schema.columns[0].dtype == "float64"
    with pytest.raises(SchemaMismatch, match=r"expected float64\[\?,\?\], found values that need object"):
        agreement.propose(infer(([["a"]],), exact=False), form)
