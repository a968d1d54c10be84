"""Row mode gives back equal values of the same types: rows of every kind, by several writers, in slots of any size."""

from __future__ import annotations

import array
import collections
import datetime as dt
import decimal
import enum
import fractions
import math
import uuid
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from tests.support import fed
from tests.support.rows import Point, anything, same
from tests.support.rows import values as plain_values

sql = pytest.importorskip("pyspark.sql")
Row = sql.Row
some = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
UTC = dt.timezone.utc


class Colour(enum.IntEnum):
    RED = 1


class Text(str):
    pass


class Whole(int):
    pass


ODD = [
    None, True, 0, -0.0, math.nan, 2**63, -(2**63), 2**63 - 1, 2**70, Colour.RED, Text("a"), Whole(3), np.True_, np.int64(3),
    np.int32(3), np.float32(1.5), np.float64("nan"), np.float16(2), np.longdouble(1.5),
    np.complex64(1j), np.str_("a"), np.bytes_(b"a"), np.datetime64("NaT"), np.datetime64("2020-01-01"), np.datetime64(5, "ns"),
    np.timedelta64(5, "s"), np.timedelta64("NaT"), pd.NaT, pd.NA, pd.Timestamp("2020-01-01", tz="Europe/Berlin"),
    pd.Timestamp(5), pd.Timedelta(5), dt.date(1, 1, 1), dt.datetime(2020, 10, 25, 2, 30, fold=1),
    dt.datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC), dt.time(1, 2), dt.timedelta(-1), decimal.Decimal("1.20"),
    decimal.Decimal("NaN"), decimal.Decimal("-0"), fractions.Fraction(1, 3), uuid.UUID(int=5), 1j, "", "a", "\ud800", "a\0b",
    b"", b"\0", bytearray(b""), bytearray(b"x"), memoryview(b"ab").tobytes(), [], (), {}, set(), frozenset([1]), [[]], [()],
    ([],), [1], (1,), [1.0, 2], [True, 1], [1, None], [np.float32(1)], [[1, 2], [3, 4]], [[1, 2], (3, 4)], [(1, 2), (3, 4)],
    [[1], [2, 3]], ["a"], [b"a"], {"a": 1}, {1: 2}, {"a": {"b": None}}, Row(a=1, b="x"), Row(1, 2), Row(a=None),
    Row("a", "a")(1, 2), Point(1, 2), [Row(a=1)], [Point(1, 2), (3, 4)], range(3), array.array("d", [1.0]), array.array("i"),
    slice(1), np.zeros(0), np.zeros((0, 3), np.int8), np.array(5), np.array(5.0, np.float32), np.zeros((2, 2), order="F"),
    np.arange(6)[::2], np.array([1], ">i4"), np.array(["a", None], object), np.array([b"a"]), np.array(["ab"]),
    np.zeros(2, [("a", "i4")]), np.ma.masked_array([1, 2], [True, False]), np.array([True]), np.matrix([[1]]),
    collections.OrderedDict(a=1), collections.Counter("a"), collections.deque([1]), Exception, int, math.inf, 5e-324,
]  # fmt: skip
odd = st.sampled_from(range(len(ODD))).map(lambda i: ODD[i])
value = odd | plain_values | st.lists(odd, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "c"]), odd, max_size=3)
NAMES = ["a", "b", "a.b", "", "c0"]


@st.composite
def shaped(draw: st.DrawFn) -> list[Any]:
    """Rows of one structure, mostly; dicts and Rows whose fields differ in order and number."""
    out: list[Any] = []
    width = draw(st.integers(0, 4))
    kind = draw(st.sampled_from(["tuple", "list", "dict", "row", "named", "bare", "mixed"]))
    steady = [draw(value) for _ in range(width)]
    for _ in range(draw(st.integers(1, 12))):
        cells = [v if draw(st.booleans()) else draw(value) for v in steady]
        this = draw(st.sampled_from(["tuple", "list", "dict", "row", "bare"])) if kind == "mixed" else kind
        if this == "tuple":
            out.append(tuple(cells))
        elif this == "list":
            out.append(cells)
        elif this == "dict":
            names = NAMES[:width] if draw(st.integers(0, 3)) else list(draw(st.permutations(NAMES[:width])))
            out.append(dict(zip(names, cells, strict=True)))
        elif this == "row":
            out.append(Row(**dict(zip(["a", "b", "a.b", "d"], cells, strict=False))))
        elif this == "named" and width >= 2:
            out.append(Point(cells[0], cells[1]))
        else:
            out.append(draw(value))
    return out


parts = st.lists(shaped() | st.lists(anything, min_size=1, max_size=4), min_size=1, max_size=3)


@given(parts, st.booleans(), st.integers(1, 9), st.sampled_from(["4k", "64k"]))
@some
def test_row_mode_gives_back_what_was_fed(writers: list[list[Any]], pickled: bool, n: int, slot: str) -> None:
    got = fed.rows(writers, n=n, pickled=pickled, memory="256k", slot_bytes=slot)
    flat = [row for part in writers for row in part]
    note(f"{flat}\n{got}")
    for a, b in zip(got, flat, strict=True):
        assert alike(a, b), (a, b)


def alike(a: Any, b: Any) -> bool:
    """Equal and of one type, through all containers."""
    if type(a) is not type(b):
        return False
    if isinstance(a, set | frozenset):
        return a == b
    if isinstance(a, np.ma.MaskedArray | np.matrix):
        return repr(a) == repr(b)
    if type(a) in (list, tuple) or hasattr(a, "_fields") or hasattr(a, "__fields__") or type(a).__name__ == "Row":
        names = [tuple(getattr(x, "__fields__", ())) for x in (a, b)]
        return names[0] == names[1] and len(a) == len(b) and all(map(alike, a, b))
    if type(a) is dict:
        return list(map(repr, a)) == list(map(repr, b)) and all(map(alike, a.values(), b.values()))
    if isinstance(a, float) and a == 0:
        return math.copysign(1, a) == math.copysign(1, b)
    if isinstance(a, dt.datetime) and a is not pd.NaT:
        return a == b and a.fold == b.fold and repr(a) == repr(b)
    if isinstance(a, np.ndarray):
        return same(a, b)
    return repr(a) == repr(b)
