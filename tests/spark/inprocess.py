"""Paths of the differential test that need a channel and no cluster: columns of batches, and writers that come over the network."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import Row
from pyspark.sql.types import ArrayType, MapType, StructType, TimestampNTZType

from tests.support.helpers import ended, gateway, in_thread
from tfos_fast.channel import Channel
from tfos_fast.channel.arrow.unpack import slot_to_arrow
from tfos_fast.cluster.driver.result_schema import arrow_schema
from tfos_fast.cluster.spark.frame_columns import columns_of, fields_of

SIZE = {"memory": "8m", "slot_bytes": "2m"}
_EPOCH = dt.datetime(1970, 1, 1)
_MICROSECOND = dt.timedelta(microseconds=1)


# ---- what columns have, by what ``collect()`` gives ----


def columns_by_rows(schema: StructType, rows: list[Row]) -> dict[str, list[Any]]:
    """What column mode has of these rows, as docs/types.md says it, in Python values."""
    found: dict[str, list[Any]] = {}
    for i, field in enumerate(schema):
        found |= _columns(field.name, field.dataType, [row[i] for row in rows])
    return found


def _columns(name: str, kind: Any, values: list[Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    if isinstance(kind, StructType):
        for i, part in enumerate(kind):
            found |= _columns(f"{name}.{part.name}", part.dataType, [None if value is None else value[i] for value in values])
        return found
    if isinstance(kind, MapType):
        keys = [None if value is None else list(value) for value in values]
        items = [None if value is None else list(value.values()) for value in values]
        found |= _columns(f"{name}.key", ArrayType(kind.keyType), keys)
        return found | _columns(f"{name}.value", ArrayType(kind.valueType), items)
    return {name: [_number(kind, value) for value in values]}


def _number(kind: Any, value: Any) -> Any:
    if isinstance(value, list):
        return [_number(kind.elementType, item) for item in value]
    if isinstance(value, dt.datetime):
        if isinstance(kind, TimestampNTZType):
            return (value - _EPOCH) // _MICROSECOND
        return int(value.replace(microsecond=0).timestamp()) * 10**6 + value.microsecond
    if isinstance(value, dt.date):
        return value.toordinal() - _EPOCH.toordinal()
    if isinstance(value, dt.timedelta):
        return value // _MICROSECOND
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, bytearray):
        return bytes(value)
    return value.toArray().tolist() if hasattr(value, "toArray") else value


def plain(value: Any) -> Any:
    """A column of a batch, or a value in it, in Python values."""
    if isinstance(value, np.ndarray | np.generic) or hasattr(value, "splits"):
        value = value.tolist()
    if type(value) is list:
        return [plain(item) for item in value]
    return bytes(value) if isinstance(value, bytearray) else value


# ---- ways into a channel ----


def batches_of(frame: Any) -> list[Any]:
    """The Arrow batches of a DataFrame, as a feed's tasks have them."""

    def stored(batches: Iterator[Any]) -> Iterator[Any]:
        for batch in batches:
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, batch.schema) as stream:
                stream.write_batch(batch)
            yield pa.RecordBatch.from_pydict({"batch": [sink.getvalue().to_pybytes()]})

    told = columns_of(frame, fields_of(frame))
    rows = frame.mapInArrow(stored, "batch binary").collect()
    return [told.given(batch) for row in rows for batch in pa.ipc.open_stream(bytes(row.batch))]


@contextmanager
def _both(remote: bool, **options: Any) -> Iterator[tuple[Channel, Channel]]:
    """A channel for the reader and one for the writer, which comes over the network or not."""
    with Channel.create(**SIZE, **options) as channel:
        if not remote:
            yield channel, channel
            return
        with gateway(channel.address) as address, Channel.attach(address) as far:
            yield channel, far


def rows_read(write: Callable[[Any], Any], *, remote: bool) -> list[Any]:
    """What ``next_rows`` gives of what ``write(writer)`` writes."""
    with _both(remote, form="rows") as (channel, to):
        thread, out = _written(channel, to, write)
        rows: list[Any] = []
        with channel.reader() as reader:
            while not reader.ended:
                rows += reader.next_rows(7)
        ended(thread)
    assert out == [None], out
    return rows


def columns_read(write: Callable[[Any], Any], *, remote: bool = False) -> dict[str, list[Any]]:
    """The columns of one batch of all that ``write(writer)`` writes."""
    with _both(remote) as (channel, to):
        thread, out = _written(channel, to, write)
        with channel.reader() as reader:
            batches = list(reader.batches(2**16))
            found = {name: plain(column) for batch in batches for name, column in batch.items()}
        ended(thread)
    assert out == [None], out
    assert len(batches) == 1
    return found


def results_read(batches: list[Any], schema: StructType, *, remote: bool) -> pa.Table:
    """The rows of batches as results for themselves, as Arrow columns of this schema."""
    arrow = arrow_schema(schema)

    def decode(layout: Any, slot: Any, count: int) -> pa.RecordBatch:
        return slot_to_arrow(layout, slot, count, arrow)

    with _both(remote, form="rows") as (channel, to):

        def serve() -> None:
            with channel.reader(train_mode=False) as reader:
                while not reader.ended:
                    reader.write_results(reader.next_rows(7))

        thread, out = in_thread(serve)
        with to.writer() as writer:
            found = list(writer.exchange(iter(batches), arrow=True, decode=decode))
        channel.end_feed()
        ended(thread)
    assert out == [None], out
    return pa.Table.from_batches(found, arrow)


def _written(channel: Channel, to: Channel, write: Callable[[Any], Any]) -> Any:
    def run() -> None:
        with to.writer() as writer:
            write(writer)
        channel.end_feed()

    return in_thread(run)
