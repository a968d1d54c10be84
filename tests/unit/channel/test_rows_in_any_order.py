"""Rows in any order and in any cut into partitions give the same values, types and masks, or an error: never others in silence."""

from __future__ import annotations

import datetime as dt
import decimal
import itertools
import math
from collections import namedtuple
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from tests.support.fed import write
from tests.support.helpers import broker_here, ended, in_thread
from tfos_fast import MASK
from tfos_fast.channel import Channel
from tfos_fast.errors import SchemaMismatch, TfosError
from tfos_fast.tf.declarations import null_policies, row_spec
from tfos_fast.values.ragged import Ragged
from tfos_fast.values.special import is_missing

Row = pytest.importorskip("pyspark.sql").Row
some = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))

UTC = dt.timezone.utc
NUMBERS = (bool, int, float, complex, np.number, np.bool_)
Point = namedtuple("Point", ["x", "y"])
NOTHING = [None, pd.NaT, pd.NA, np.datetime64("NaT"), np.timedelta64("NaT")]
KINDS: dict[str, list[Any]] = {
    "bool": [True, False, np.True_],
    "int": [0, 1, -3, 2**40, np.int8(7), np.uint16(9)],
    "large": [2**53 + 1, -(2**63), 2**63 - 1],
    "unsigned": [np.uint64(2**64 - 1), np.uint64(1), np.uint8(255), np.uint16(65535), np.uint32(7)],
    "small": [np.int8(-1), np.uint8(255), np.uint16(9), np.float16(0.5), np.float32(0.25)],
    "float": [0.0, -0.0, 0.5, math.nan, math.inf, np.float32(0.25), np.float16(2), 1e300, decimal.Decimal("1.5")],
    "complex": [1j, np.complex64(2)],
    "text": ["", "a", "é", "x" * 300, np.str_("n")],
    "bytes": [b"", b"\xff\0", bytearray(b"ab"), np.bytes_(b"n")],
    "date": [dt.date(1970, 1, 2), dt.date(1, 1, 1)],
    "moment": [dt.datetime(2020, 1, 1, tzinfo=UTC), pd.Timestamp(1, tz="UTC"), np.datetime64("2020-01-01"), np.datetime64(5, "s")],
    "span": [dt.timedelta(1), np.timedelta64(-1, "ns"), pd.Timedelta(5)],
    "ints": [[], [1], [1, 2], (3, 4), np.array([5, 6], np.int16), [np.int64(1), np.int64(2)]],
    "floats": [[0.5], [0.5, 1], np.array([0.5, 2.0]), np.zeros(0), [1.5, decimal.Decimal(2)]],
    "lists": [[[1], [2, 3]], [[1, 2], [3, 4]], [[]], [], np.zeros((2, 2), np.float32)],
    "texts": [["a"], ["a", "bc"], [], [["a"]], np.array(["u"])],
    "dates": [[dt.date(1970, 1, 2)], [], [dt.date(1970, 1, 3)] * 2],
    "row": [Row(x=1, y="a"), Row(x=2.5, y=None), Row(x=None), Row(y="b", x=3), {"x": 4}, Point(5, "c"), {}],
    "rows": [[Row(x=1, y=2)], [(1, 2)], [[1, 2], Row(x=3, y=4)], [{"x": 1}], [Point(1, 2), (3, 4)], [np.ones(2), Point(3, 4)]],
    "odd": [{1: 2}, {"set"}, [None], [1, None], [1, "a"], 2**70, object],
}
LIKELY = [
    *[("bool", "int"), ("int", "float"), ("int", "large"), ("large", "float"), ("unsigned", "int"), ("small",), ("text", "bytes")],
    *[("ints", "floats"), ("ints", "lists"), ("texts", "lists"), ("row", "rows"), ("row",), ("date", "moment")],
]
POLICIES = [None, MASK, 0, 1, -1, 0.5, math.nan, "-", b"-", b"\xff", True, 300]
SPECS = [
    *[None, None, None, "object", "float32", "int32", "int64", "string", "bytes", "bool"],
    *[("float32", (2,)), ("int64", (None,)), ("string", (None,))],
]


class Outcome(NamedTuple):
    """What a reader got of a column: its values by row, what its array holds, its mask by row."""

    values: dict[str, dict[int, Any]]
    types: dict[str, str]


def outcome(writers: list[list[Any]], nulls: Any, spec: Any, pickled: bool) -> Outcome | str:
    """Or what the error says."""
    with broker_here("1m", "64k", end_after=1) as broker, Channel.attach(broker.address) as channel:
        thread, out = in_thread(lambda: write(channel, writers, pickled=pickled))
        batches: list[Any] = []
        failed: Any = None
        with channel.reader() as reader:
            reader.open_columns(64, row_spec(spec) if spec else None, nulls=null_policies(nulls), wait=False)
            try:
                batches = list(reader.batches(64))
            except TfosError as error:
                failed = error
        ended(thread)
        error = out[0] or failed
        if isinstance(error, SchemaMismatch):
            return str(error)
        if error is not None:
            raise error
    (batch,) = batches
    keys = batch.pop("id").tolist()
    values = {name: dict(zip(keys, of_rows(column), strict=True)) for name, column in batch.items()}
    return Outcome(values, {name: type_of(column) for name, column in batch.items()})


def of_rows(column: Any) -> list[Any]:
    return column.tolist() if isinstance(column, Ragged) else list(column)


def type_of(column: Any) -> str:
    if isinstance(column, Ragged):
        return f"{len(column.splits)} levels of {column.values.dtype}{column.values.shape[1:]}"
    return f"{column.dtype}{column.shape[1:]}"


def alike(a: Any, b: Any) -> bool:
    """Equal, through containers; numbers of any type, as Python compares them. Nulls are alike."""
    if is_missing(a) or is_missing(b):
        return is_missing(a) and is_missing(b)
    if isinstance(a, np.ndarray):
        a = a.tolist()
    if isinstance(b, np.ndarray):
        b = b.tolist()
    if isinstance(a, str | bytes | bytearray) and isinstance(b, str | bytes | bytearray):
        return bool(a == b)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        names = getattr(a, "__fields__", getattr(a, "_fields", None)), getattr(b, "__fields__", getattr(b, "_fields", None))
        return names[0] == names[1] and len(a) == len(b) and all(map(alike, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(alike(a[key], b[key]) for key in a)
    if _is_time(a) or _is_time(b):
        return repr(a) == repr(b)
    if isinstance(a, NUMBERS) and isinstance(b, NUMBERS):
        a, b = (x.item() if isinstance(x, np.generic) else x for x in (a, b))
        return bool(a == b) or (a != a and b != b)
    return type(a) is type(b) and repr(a) == repr(b)


def _is_time(value: Any) -> bool:
    return isinstance(value, np.generic) and value.dtype.kind in "Mm"


@st.composite
def columns(draw: st.DrawFn) -> list[Any]:
    """Values of one or two kinds, and perhaps a null."""
    kinds = draw(st.sampled_from(LIKELY) | st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=2).map(tuple))
    pool = [value for kind in kinds for value in KINDS[kind]]
    values = [pool[i] for i in draw(st.lists(st.integers(0, len(pool) - 1), min_size=1, max_size=4))]
    return [*values, *(NOTHING[i] for i in draw(st.lists(st.integers(0, len(NOTHING) - 1), max_size=1)))]


def cut(draw: Any, rows: list[Any]) -> list[list[Any]]:
    """Neighbouring rows together, each part for a writer of its own."""
    ends = sorted({len(rows), *draw(st.lists(st.integers(1, len(rows)), max_size=len(rows)))})
    return [rows[a:b] for a, b in itertools.pairwise([0, *ends])]


@given(columns(), st.sampled_from(range(len(POLICIES))), st.booleans(), st.sampled_from(SPECS), st.data())
@some
def test_values_types_and_masks_do_not_depend_on_the_order_of_rows(
    values: list[Any], policy: int, own: bool, spec: Any, data: st.DataObject
) -> None:
    nulls = {"v": POLICIES[policy]} if own and POLICIES[policy] is not None else POLICIES[policy]
    declared = None if spec is None else {"v": spec}
    rows = [{"id": i, "v": value} for i, value in enumerate(values)]
    orders = list(itertools.permutations(rows)) if len(rows) < 4 else [data.draw(st.permutations(rows)) for _ in range(6)]
    first: tuple[Any, Outcome] | None = None
    for order in orders:
        parts = cut(data.draw, list(order))
        got = outcome(parts, nulls, declared, data.draw(st.booleans()))
        if isinstance(got, str):
            continue
        first = first or (parts, got)
        note(f"{first[0]} gave {first[1]}, {parts} gave {got}")
        assert got.types == first[1].types
        for name, column in got.values.items():
            for key, value in column.items():
                assert alike(value, first[1].values[name][key]), (name, key, value)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_values_of_one_kind_are_read_in_column_mode(kind: str) -> None:
    """What the test above compares is there: errors alone would do for it."""
    got = outcome([[{"id": 0, "v": KINDS[kind][0]}], [{"id": 1, "v": KINDS[kind][-1]}]], None, None, False)
    assert isinstance(got, Outcome), got
    assert all(column.keys() == {0, 1} for column in got.values.values())
