"""Policies for nulls: declared after writers have begun, of every type of value, in columns of objects, over a network."""

from __future__ import annotations

import contextlib
import datetime as dt
import itertools
import math
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from tests.support import fed
from tests.support.helpers import broker_here, ended, gateway, in_thread, wait_for
from tests.support.rows import same
from tfos_fast import MASK
from tfos_fast.channel import Channel
from tfos_fast.channel.broker.schema_agreement import Agreement
from tfos_fast.channel.protocol import messages as m
from tfos_fast.channel.schema.detect import infer
from tfos_fast.errors import SchemaMismatch, WriterDied
from tfos_fast.tf.declarations import null_policies

way = pytest.mark.parametrize("pickled", [False, True], ids=["rows", "pickled"])


def late(before: list[Any], after: list[Any], nulls: Any, *, n: int = 64) -> dict[str, list[Any]]:
    """A channel whose writers begin by a form without policies; the reader declares some when it comes."""
    with broker_here("256k", "16k", form=m.Form("columns"), end_after=2) as broker, Channel.attach(broker.address) as channel:
        first = channel.writer()
        first.open_partition()
        first.write_rows(before)
        first.end_partition()
        wait_for(lambda: channel.status()["rows_published"] == len(before))
        got: dict[str, list[Any]] = {}
        with channel.reader() as reader:
            reader.open_columns(n, nulls=null_policies(nulls), wait=False)

            def write() -> None:
                with channel.writer() as second:
                    second.write_rows(after)
                first.write_rows(after)
                first.close() if first.end_partition() is None else None

            thread, out = in_thread(write)
            for batch in reader.batches(n):
                for name, values in batch.items():
                    got.setdefault(name, []).extend(values.tolist())
        ended(thread)
        assert out == [None]
        return got


@pytest.mark.parametrize(
    ("values", "zero"),
    [
        ([1, None, 2], 0),
        ([None, 1.5], 0.0),
        (["a", None], ""),
        ([b"a", None, b""], b""),
        ([[1, 2], None], [0, 0]),
        ([[1, 2], None, [3]], []),
        ([["a"], None], []),
        ([1, 2, 3], 0),
        ([None, None], 0.0),
    ],
    ids=repr,
)
def test_a_reader_that_comes_after_its_writers_declares_nulls(values: list[Any], zero: Any) -> None:
    for after in ([(values[0],)], [(value,) for value in values]):
        got = late([(value,) for value in values], after, MASK)
        everything = [*values, *(row[0] for row in after), *(row[0] for row in after)]
        assert got["c0_mask"] == [value is not None for value in everything]
        assert got["c0"] == [zero if value is None else value for value in everything]


def test_fills_of_a_late_reader() -> None:
    assert late([(1,), (None,)], [(None,)], -1)["c0"] == [1, -1, -1, -1]
    assert late([("a",), (None,)], [(None,)], {"c0": "-"})["c0"] == ["a", "-", "-", "-"]
    assert late([(1,), ("x",), (None,)], [(None,)], MASK)["c0"] == [1, "x", None, None, None]
    with pytest.raises(SchemaMismatch, match="its nulls are to become 'x', the rows have int64"):
        late([(1,), (None,)], [], {"c0": "x"})
    with pytest.raises(SchemaMismatch, match="nulls names 'c7'"):
        late([(1,), (None,)], [], {"c7": 0})


@way
@pytest.mark.parametrize(
    ("values", "fill", "expected"),
    [
        ([1.0, None, 2.0, "text", None], 0.5, [1.0, 0.5, 2.0, "text", 0.5]),
        ([{1: 2}, None], "-", [{1: 2}, "-"]),
        ([None, {1: 2}, None], 7, [7, {1: 2}, 7]),
        ([2**70, None], -1, [2**70, -1]),
        ([None, None, 2**70], True, [True, True, 2**70]),
        ([{1: 2}, None], b"\xff", [{1: 2}, b"\xff"]),
        ([None, {1: 2}, None], b"a", [b"a", {1: 2}, b"a"]),
    ],
    ids=repr,
)
def test_a_fill_is_written_into_columns_of_objects(values: list[Any], fill: Any, expected: list[Any], pickled: bool) -> None:
    rows = [(value,) for value in values]
    for writers in ([rows], [rows[:2], rows[2:]]):
        for nulls in (fill, {"c0": fill}):
            assert same(fed.columns(writers, nulls=nulls, pickled=pickled)["c0"], expected)
    declared = fed.columns([rows], nulls=fill, spec={"c0": "object"}, pickled=pickled)
    assert same(declared["c0"], [fill if value is None else value for value in values])


def test_arrow_batches_and_rows_in_turns() -> None:
    """They share policies, and dates and times in either are the same numbers."""
    day, moment = dt.date(1970, 1, 2), dt.datetime(1970, 1, 2, tzinfo=dt.timezone.utc)
    dates = pa.RecordBatch.from_pylist([{"a": day}, {"a": None}], pa.schema({"a": pa.date32()}))
    times = pa.RecordBatch.from_pylist([{"a": moment}, {"a": None}], pa.schema({"a": pa.timestamp("us", "UTC")}))
    texts = pa.RecordBatch.from_pylist([{"a": "x"}, {"a": None}], pa.schema({"a": pa.string()}))
    holes = pa.RecordBatch.from_pylist([{"a": [1, None]}, {"a": None}], pa.schema({"a": pa.list_(pa.int64())}))
    for batch, rows, one in ((dates, [{"a": day}, {"a": None}], 1), (times, [{"a": moment}, {"a": pd.NaT}], 86_400_000_000)):
        for parts in ([batch, rows], [rows, batch], [rows[:1], batch, rows[1:]]):
            got = in_turns(parts, MASK)
            assert sorted(zip(got["a"], got["a_mask"], strict=True)) == [(0, False)] * 2 + [(one, True)] * 2
            assert sorted(in_turns(parts, -1)["a"]) == [-1, -1, one, one]
            assert sorted(in_turns(parts, None)["a"], key=repr) == sorted([one, None, one, None], key=repr)
    assert in_turns([holes], -1)["a"] == [[1, None], -1]
    assert in_turns([holes], MASK)["a"] == [[1, None], None]
    assert in_turns([[{"a": 5}], texts], "-")["a"] == [5, "x", "-"]
    assert in_turns([[{"a": 5}, {"a": None}], texts], MASK)["a"] == [5, None, "x", None]


def in_turns(parts: list[Any], nulls: Any) -> dict[str, list[Any]]:
    with broker_here("256k", "16k", end_after=1) as broker, Channel.attach(broker.address) as channel:

        def write() -> None:
            with channel.writer() as writer:
                for part in parts:
                    writer.write_batch(part) if isinstance(part, pa.RecordBatch) else writer.write_rows(part)

        thread, out = in_thread(write)
        got: dict[str, list[Any]] = {}
        with channel.reader() as reader, contextlib.suppress(WriterDied):
            reader.open_columns(64, nulls=null_policies(nulls), wait=False)
            for batch in reader.batches(64):
                for name, values in batch.items():
                    got.setdefault(name, []).extend(values.tolist())
        ended(thread)
        if out != [None]:
            raise out[0]
        return got


@way
@pytest.mark.parametrize(
    ("values", "fill", "expected"),
    [
        ([1.5, None], math.nan, [1.5, math.nan]),
        ([None, 1.5], np.float32(2), [2.0, 1.5]),
        ([1, None], True, [1, 1]),
        ([True, None], False, [True, False]),
        ([True, None], 0, [True, False]),
        ([None, False], 1.0, [True, False]),
        ([1, None], 2.0, [1, 2]),
        ([b"a", None], b"\xff\x00", [b"a", b"\xff\x00"]),
        ([b"a", None], "é", [b"a", b"\xe9"]),
        (["a", None], "é".encode(), ["a", "é"]),
        ([None], b"\xff", [b"\xff"]),
        ([None, None], bytearray(b"x"), [b"x", b"x"]),
        (["a", None], "日本", ["a", "日本"]),
        ([[1, 2], None], 7, [[1, 2], [7, 7]]),
        ([[0.5, 2.5], None], math.inf, [[0.5, 2.5], [math.inf, math.inf]]),
        ([None], "x", ["x"]),
        ([None, "a"], "x", ["x", "a"]),
    ],
    ids=repr,
)
def test_fills_of_every_type(values: list[Any], fill: Any, expected: list[Any], pickled: bool) -> None:
    rows = [(value, i) for i, value in enumerate(values)]
    got = fed.columns([rows, rows], nulls={"c0": fill}, pickled=pickled)
    assert same(got["c0"], [*expected, *expected])
    assert "c0_mask" not in got


@way
@pytest.mark.parametrize(
    ("values", "fill"),
    [
        ([None, "a"], 5.0),
        (["a", None], 5.0),
        ([None, b"a"], 0),
        ([b"a", None], "日本"),
        ([None, b"a"], "日本"),
        ([None, [1, 2], [1]], 0),
        ([None, ["a"]], "x"),
        ([1, None], 0.5),
        ([None, 1], "x"),
        ([True, None], 2),
        ([1, None], math.nan),
        ([1, None], 1e300),
        ([np.float32(0.5), None], 1e300),
        (["a", None], b"\xff"),
    ],
    ids=repr,
)
def test_a_fill_that_the_column_does_not_take_is_refused(values: list[Any], fill: Any, pickled: bool) -> None:
    rows = [(value, i) for i, value in enumerate(values)]
    for nulls in (fill, {"c0": fill}):
        with pytest.raises(SchemaMismatch, match=r"column 'c0': its nulls are to become .*, the rows have"):
            fed.columns([rows], nulls=nulls, pickled=pickled)
    assert fed.columns([[(value, 1) for value in values if value is not None]], nulls=fill, pickled=pickled)["c0"]


def test_nan_is_one_policy() -> None:
    """Columns that are filled with a NaN are equal, so that a second writer's are no others behind the first batch."""
    form = m.Form("columns", 8, nulls=null_policies(math.nan))
    agreement = Agreement()
    number, schema = agreement.propose(infer((1.5,), exact=False), form)
    again = m.Form("columns", 8, nulls=null_policies({"*": float("nan")}))
    assert agreement.propose(infer((2.5,), exact=False), again) == (number, schema)
    agreement.pin()
    assert agreement.propose(infer((None,), exact=False), again) == (number, schema)
    assert len(agreement) == 1
    sent = m.decode_broker(m.encode(m.Agreed(number, schema))) if hasattr(m, "decode_broker") else m.Agreed(number, schema)
    assert sent.schema == schema
    assert hash(sent.schema) == hash(schema)


def test_over_a_network() -> None:
    """A remote writer's nulls, dates and widening are those of a local one."""
    rows = [(1, dt.date(1970, 1, 2), [1, 1], "a"), (None, None, None, None), (2.5, dt.date(1970, 1, 3), [3], 7)]
    with broker_here(end_after=1) as broker, gateway(broker.address) as remote, Channel.attach(broker.address) as channel:

        def write() -> None:
            with Channel.attach(remote).writer() as writer:
                writer.write_rows(rows)

        thread, out = in_thread(write)
        with channel.reader() as reader:
            reader.open_columns(64, nulls=null_policies(MASK), wait=False)
            (batch,) = [{name: values.tolist() for name, values in each.items()} for each in reader.batches(64)]
        ended(thread)
        assert out == [None]
    mask = [True, False, True]
    assert batch == {
        "c0": [1.0, 0.0, 2.5], "c0_mask": mask, "c1": [1, 0, 2], "c1_mask": mask, "c2": [[1, 1], [], [3]], "c2_mask": mask,
        "c3": ["a", None, 7],
    }  # fmt: skip
    with broker_here(end_after=1) as broker, gateway(broker.address) as remote, Channel.attach(broker.address) as channel:
        thread, out = in_thread(lambda: _refused(remote, [(dt.date(1970, 1, 2),), (dt.timedelta(1),)]))
        with channel.reader() as reader:
            reader.open_columns(64, wait=False)
            ended(thread)
        assert "values of several kinds" in out[0]


def _refused(remote: Any, rows: list[Any]) -> str:
    with pytest.raises(SchemaMismatch) as caught, Channel.attach(remote).writer() as writer:
        writer.write_rows(rows)
    return str(caught.value)


@way
def test_a_fill_for_all_columns_and_lists_that_differ_in_length_meet_in_any_order(pickled: bool) -> None:
    """None was [0, 0] where it came before the lists differed, and an error behind that."""
    values = [[1, 2], None, [3]]
    found = r"column 'c0': its nulls are to become 0, the rows have int64\[\?\]; None becomes a list without items.*MASK"
    for order in itertools.permutations(values):
        rows = [(value,) for value in order]
        for writers in ([rows], [rows[:1], rows[1:]], [[row] for row in rows]):
            for nulls in (0, {"c0": 0}):
                with pytest.raises(SchemaMismatch, match=found):
                    fed.columns(writers, nulls=nulls, pickled=pickled)
    for order in itertools.permutations([[1, 2], None, [3, 4]]):
        rows = [(value,) for value in order]
        assert fed.columns([rows], nulls=7, pickled=pickled)["c0"] == [[7, 7] if value is None else value for value in order]
        late = fed.columns([[([0, 0],)] * 9, rows], n=3, nulls=7, pickled=pickled)["c0"]
        assert sorted(late[-3:]) == [[1, 2], [3, 4], [7, 7]]
    assert fed.columns([[([1, 2],), ([3],)]], nulls=0, pickled=pickled)["c0"] == [[1, 2], [3]]


def test_integers_of_arrow_share_no_column_with_dates_and_times_of_rows() -> None:
    day, moment, span = dt.date(1970, 1, 2), dt.datetime(1970, 1, 2, tzinfo=dt.timezone.utc), dt.timedelta(1)
    of_arrow = {
        "int64": (5, pa.int64()), "int32": (5, pa.int32()), "date": (day, pa.date32()), "time": (moment, pa.timestamp("ms")),
        "span": (span, pa.duration("s")), "ints": ([5], pa.list_(pa.int64())), "dates": ([day], pa.list_(pa.date64())),
        "encoded": (moment, pa.dictionary(pa.int8(), pa.timestamp("us"))), "struct": ({"x": day}, pa.struct({"x": pa.date32()})),
        "map": ([(day, 1)], pa.map_(pa.date32(), pa.int32())),
    }  # fmt: skip
    of_rows = {"int64": 7, "date": day, "time": moment, "span": span, "ints": [7], "dates": [day], "struct": {"x": day}}
    same_kind = {("int32", "int64"), ("encoded", "time")} | {(kind, kind) for kind in of_rows}
    for arrow, (value, kind) in of_arrow.items():
        for rows, other in of_rows.items():
            array = pa.array([value], kind) if arrow != "encoded" else pa.array([value], kind.value_type).dictionary_encode()
            batch = pa.RecordBatch.from_arrays([array], ["a"])
            for parts in ([batch, [{"a": other}]], [[{"a": other}], batch]):
                for nulls in (None, MASK):
                    if (arrow, rows) in same_kind:
                        assert in_turns(parts, nulls)
                    elif arrow in ("struct", "map") or rows == "struct" or {arrow, rows} in ({"ints", "int64"}, {"ints", "int32"}):
                        continue
                    else:
                        with pytest.raises(SchemaMismatch, match="values of several kinds"):
                            in_turns(parts, nulls)
    structs = pa.RecordBatch.from_pylist([{"a": {"x": day}}], pa.schema({"a": of_arrow["struct"][1]}))
    with pytest.raises(SchemaMismatch, match=r"column 'a.x'.*values of several kinds"):
        in_turns([structs, [{"a": {"x": 5}}]], None)
    two = (of_arrow["int32"], of_arrow["date"])
    batches = [pa.RecordBatch.from_arrays([pa.array([value], kind)], ["a"]) for value, kind in two]
    with pytest.raises(SchemaMismatch, match="values of several kinds"):
        in_turns(batches, None)


@way
@pytest.mark.parametrize(
    ("values", "fill", "changes"),
    [
        ([np.float32(0.5), None, 2.5], 0.1, True),
        ([np.float32(0.5), None, 2.5], 0.25, False),
        ([b"a", None, "x"], b"-", True),
        (["a", None, b"x"], "-", True),
        ([[1, 2], None, "x"], 7, True),
        ([1, None, {5}], 2.0, False),
        ([False, None, 5], 0, False),
    ],
    ids=repr,
)
def test_what_stands_for_none_is_the_same_in_any_order_or_refused(
    values: list[Any], fill: Any, changes: bool, pickled: bool
) -> None:
    """It was the older column's value where None came before a column widened, and the wider one's behind that."""
    expected = [fill if value is None else value for value in values]
    refused = 0
    for order in itertools.permutations(range(len(values))):
        rows = [(i, values[i]) for i in order]
        for writers in ([rows], [[row] for row in rows]):
            try:
                got = fed.columns(writers, nulls={"c1": fill}, pickled=pickled)
            except SchemaMismatch as error:
                refused += "stood for None" in str(error) or "its nulls are to become" in str(error)
                continue
            assert [value for _, value in sorted(zip(got["c0"], got["c1"], strict=True))] == expected
    assert changes == (refused > 0)
    assert refused < 12


@way
def test_values_beside_none_are_those_of_a_column_without_it(pickled: bool) -> None:
    """2**53 + 1 among floats was itself or rounded, as the rows' order was."""
    for values in ([2**53 + 1, 0.5, None], [[2**53 + 1], [0.5, 1.5], None], [[2**53 + 1], [0.5], None], [True, 3, None]):
        dtype = bool if values[0] is True else float
        for order in itertools.permutations(range(3)):
            rows = [(i, values[i]) for i in order]
            for writers in ([rows], [[row] for row in rows]):
                got = fed.columns(writers, pickled=pickled)
                found = dict(zip(got["c0"], got["c1"], strict=True))
                assert found[2] is None
                first = found[0].tolist() if isinstance(found[0], np.ndarray) else found[0]
                if dtype is float:
                    assert same(first, 2.0**53 if values[0] == 2**53 + 1 else [2.0**53])
                else:
                    assert same(first, 1)
