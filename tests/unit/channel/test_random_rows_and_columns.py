"""Hypothesis through a channel's shared memory: rows of any kind as they were fed, columns of every type by their conversions."""

from __future__ import annotations

import contextlib
import datetime
import decimal
import pickle
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.support.helpers import broker_here, ended, in_thread
from tests.support.rows import feeds, same
from tfos_fast.channel import Channel
from tfos_fast.errors import WriterDied
from tfos_fast.values.dtypes import DTYPES, dtype_of

some = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
MICROSECOND = datetime.timedelta(microseconds=1)
TIMES = {"min_value": datetime.datetime(1900, 1, 1), "max_value": datetime.datetime(2200, 1, 1)}


@given(feeds(), st.booleans(), st.integers(1, 40), st.integers(1, 9))
@some
def test_rows_come_back_as_they_were_fed(rows: list[Any], pickled: bool, n: int, each: int) -> None:
    with broker_here("128k", "16k", end_after=1) as broker, Channel.attach(broker.address) as channel:

        def write() -> None:
            with channel.writer() as writer:
                if pickled:
                    writer.write_pickled([pickle.dumps(rows[at : at + each], 5) for at in range(0, len(rows), each)])
                else:
                    writer.write_rows(rows)

        thread, out = in_thread(write)
        got = []
        with channel.reader() as reader:
            while not reader.ended:
                got += reader.next_rows(n)
        ended(thread)
        assert out == [None]
        assert same(got, rows)


def arrays(name: str, shape: tuple[int, ...]) -> st.SearchStrategy[np.ndarray]:
    """Arrays of one type and shape, in either order of memory."""
    bits = hnp.arrays(np.dtype(f"u{min(dtype_of(name).itemsize, 8)}"), (dtype_of(name).itemsize // 8 or 1, *shape))

    def of(values: np.ndarray, fortran: bool) -> np.ndarray:
        if name == "bool":
            return values[0] > 99
        array = np.ascontiguousarray(np.moveaxis(values, 0, -1)).view(dtype_of(name)).reshape(shape)
        return np.array(array, order="F" if fortran else "C")

    return st.builds(of, bits, st.booleans())


@pytest.mark.parametrize("name", sorted(DTYPES))
@given(data=st.data(), pickled=st.booleans(), shape=hnp.array_shapes(min_dims=0, max_dims=3, max_side=4), n=st.integers(1, 20))
@settings(some, max_examples=12)
def test_arrays_of_every_type_arrive_bit_by_bit(
    data: st.DataObject, pickled: bool, shape: tuple[int, ...], n: int, name: str
) -> None:
    values = data.draw(st.lists(arrays(name, shape), min_size=1, max_size=12))
    rows = [(value if shape else value[()], i) for i, value in enumerate(values)]
    got = columns(rows, n, "pickled" if pickled else "rows")
    assert same(got["c0"], np.ascontiguousarray(np.stack(values)))
    assert got["c1"].tolist() == list(range(len(rows)))


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
converted = st.fixed_dictionaries({
    "date": st.dates(TIMES["min_value"].date(), TIMES["max_value"].date()),
    "time": st.datetimes(**TIMES, timezones=st.just(datetime.timezone.utc)),
    "span": st.timedeltas(datetime.timedelta(-9999), datetime.timedelta(9999)),
    "money": st.decimals(-(10**9), 10**9, places=4),
    "point": st.fixed_dictionaries({"x": st.floats(allow_nan=False), "name": texts}),
    "raw": st.binary(max_size=6),
})  # fmt: skip
ARROW = pa.schema({
    "date": pa.date32(), "time": pa.timestamp("us", "UTC"), "span": pa.duration("us"), "money": pa.decimal128(18, 4),
    "point": pa.struct({"x": pa.float64(), "name": pa.string()}), "raw": pa.binary(),
})  # fmt: skip


@given(st.lists(converted, min_size=1, max_size=30), st.sampled_from(["rows", "pickled", "arrow"]), st.integers(1, 20))
@some
def test_values_are_converted_as_documented(rows: list[dict[str, Any]], source: str, n: int) -> None:
    got = columns(rows, n, source)
    assert got["date"].dtype == np.int32
    assert got["date"].tolist() == [(row["date"] - EPOCH.date()).days for row in rows]
    assert got["time"].tolist() == [(row["time"] - EPOCH) // MICROSECOND for row in rows]
    assert got["span"].tolist() == [row["span"] // MICROSECOND for row in rows]
    money = [float(decimal.Decimal(row["money"])) for row in rows]
    # Arrow multiplies by a power of ten, and so may be off by the last bit.
    assert got["money"].tolist() == (pytest.approx(money, rel=3e-16, abs=0) if source == "arrow" else money)
    assert same(got["point.x"].tolist(), [row["point"]["x"] for row in rows])
    assert got["point.name"].tolist() == [row["point"]["name"] for row in rows]
    assert got["raw"].tolist() == [row["raw"] for row in rows]


def columns(rows: list[Any], n: int, source: str) -> dict[str, np.ndarray]:
    """The columns of the rows, batch behind batch."""
    with broker_here("128k", "16k", end_after=1) as broker, Channel.attach(broker.address) as channel:

        def write() -> None:
            with channel.writer() as writer:
                if source == "rows":
                    writer.write_rows(rows)
                elif source == "pickled":
                    writer.write_pickled([pickle.dumps(rows, 5)])
                else:
                    writer.write_batch(pa.RecordBatch.from_pylist(rows, ARROW))

        thread, out = in_thread(write)
        batches: list[dict[str, np.ndarray]] = []
        with channel.reader() as reader, contextlib.suppress(WriterDied):
            batches += ({name: np.array(values) for name, values in batch.items()} for batch in reader.batches(n))
        ended(thread)
        assert out == [None]
        return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
