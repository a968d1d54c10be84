"""Columns that a spec leaves out where it decides the structure: they are not packed, whatever they hold."""

from __future__ import annotations

import contextlib
import datetime
import pickle
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.helpers import ended, in_thread
from tests.support.rows import same, slot
from tfos_fast.channel import Channel
from tfos_fast.channel.codec import decode
from tfos_fast.channel.codec.layout import plan
from tfos_fast.channel.reader.reader import Reader
from tfos_fast.channel.schema.detect import infer
from tfos_fast.channel.schema.widen import apply_spec, leave_out
from tfos_fast.errors import ChannelClosed, FormError, SchemaMismatch, WriterDied
from tfos_fast.native.pickled.batch import StreamBatch
from tfos_fast.native.pickled.pack_rows import pack_stream
from tfos_fast.native.row_packer import END, RowPacker

some = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))

# What no tensor takes, or what changes from row to row.
ODD = [object, None, {1: 2}, "text", [1, [2]], datetime.timedelta(1), 2**70, b"x" * 500, [None], np.arange(3)]


def odd_rows(count: int) -> list[dict[str, Any]]:
    return [{"a": ODD[i % len(ODD)], "x": [float(i), 0.5], "b": ODD[-1 - i % len(ODD)], "y": i} for i in range(count)]


def read(channel: Channel, write: Any, spec: Any, n: int = 64) -> tuple[dict[str, np.ndarray], Reader]:
    """The columns of a feed of which only those of the spec are wanted."""

    def run() -> None:
        with channel.writer() as writer:
            write(writer)

    thread, out = in_thread(run)
    reader = channel.reader()
    reader.open_columns(n, spec, tensors=True, only=True, wait=False)
    batches: list[dict[str, np.ndarray]] = []
    with contextlib.suppress(WriterDied):
        batches += ({name: np.array(values) for name, values in batch.items()} for batch in reader.batches(n))
    ended(thread)
    if isinstance(out[0], BaseException):
        reader.close()
        raise out[0]
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}, reader


VECTOR = pa.struct({"type": pa.int8(), "size": pa.int32(), "indices": pa.list_(pa.int32()), "values": pa.list_(pa.float64())})
SPEC = {"x": ("float32", (2,)), "y": ("int32", ())}


@pytest.mark.parametrize("source", ["rows", "pickled"])
def test_unnamed_columns_may_hold_anything(source: str) -> None:
    rows = odd_rows(500)
    with Channel.create(memory="1m", slot_bytes="16k", form=None) as channel:

        def write(writer: Any) -> None:
            if source == "rows":
                writer.write_rows(rows)
            else:
                writer.write_pickled([pickle.dumps(rows[at : at + 70]) for at in range(0, 500, 70)])

        got, reader = read(channel, write, SPEC)
        assert list(got) == ["x", "y"]
        assert same(got["x"], np.array([row["x"] for row in rows], np.float32))
        assert same(got["y"], np.arange(500, dtype=np.int32))
        assert [column.kind for column in reader.schema.columns] == ["unused", "fixed", "unused", "fixed"]  # type: ignore[union-attr]
        assert reader.summary["copied"] <= 1  # the last batch may be a tail
        reader.close()


def test_tuples_and_rows_of_another_length() -> None:
    rows = [(i, ODD[i % len(ODD)], i / 2) for i in range(200)]
    with Channel.create(memory="1m", slot_bytes="16k", form=None) as channel:
        got, reader = read(channel, lambda writer: writer.write_rows(rows), {"c2": ("float64", ())})
        assert same(got, {"c2": np.arange(200) / 2})
        reader.close()
    with Channel.create(memory="1m", slot_bytes="16k", form=None) as channel:
        with pytest.raises(SchemaMismatch, match="row 200: rows differ in structure"):
            read(channel, lambda writer: writer.write_rows([*rows, (1, 2)]), {"c2": ("float64", ())})


@pytest.mark.parametrize("source", ["rows", "pickled"])
def test_structs_that_nobody_names_are_not_taken_apart(source: str) -> None:
    metas = [{"a": 1}, {"b": 2}, {}, None, "text"]
    rows = [{"x": float(i), "meta": metas[i % 5], "p": {"q": {"z": i}, "r": ODD[i % len(ODD)]}} for i in range(100)]
    with Channel.create(memory="1m", slot_bytes="16k", form=None) as channel:

        def write(writer: Any) -> None:
            if source == "rows":
                writer.write_rows(rows)
            else:
                writer.write_pickled([pickle.dumps(rows)])

        got, reader = read(channel, write, {"x": ("float32", ()), "p.q.z": ("int64", ())})
        assert {name: values.tolist() for name, values in got.items()} == {"x": list(range(100)), "p.q.z": list(range(100))}
        reader.close()


def test_a_later_call_that_asks_for_more_is_refused() -> None:
    with Channel.create(memory="1m", slot_bytes="16k", form=None) as channel:
        got, reader = read(channel, lambda writer: writer.write_rows(odd_rows(100)), SPEC)
        assert len(got["y"]) == 100
        reader.open_columns(8, {"y": ("int32", ())}, only=True)
        with pytest.raises(FormError, match=r"packed: x, y\. A later call wants b, too"):
            reader.open_columns(8, SPEC | {"b": ("object", None)}, only=True)
        with pytest.raises(FormError, match=r"packed: x, y\. A later call wants a, b, too"):
            reader.open_columns(8)
        reader.close()


def test_a_later_call_may_want_all_columns_where_none_is_left_out() -> None:
    rows = [(float(i), i) for i in range(100)]
    for only in ({"c0": ("float32", ())}, {"c0": ("float32", ()), "c1": ("int64", ())}):
        with Channel.create(memory="1m", slot_bytes="16k", form=None) as channel:
            thread, _ = in_thread(lambda: fill(channel, rows))
            with channel.reader() as reader:
                reader.open_columns(50, only, only=True, wait=False)
                reader.open_columns(50, only, wait=False)  # nobody knows yet what columns there are
                if len(only) == 2:
                    assert [list(batch) for batch in reader.batches(50)] == [["c0", "c1"]] * 2
                else:
                    with pytest.raises(FormError, match="wants c1, too"):
                        next(reader.batches(50))
            ended(thread)


def fill(channel: Channel, rows: list[Any]) -> None:
    with contextlib.suppress(ChannelClosed), channel.writer() as writer:
        writer.write_rows(rows)


def test_unnamed_columns_of_arrow_are_not_even_looked_at() -> None:
    count = 300
    table = pa.record_batch({
        "x": pa.array([[float(i), 1.0] for i in range(count)]),
        "map": pa.array([[("k", i)] for i in range(count)], pa.map_(pa.string(), pa.int64())),
        "struct": pa.array([{"p": None if i % 2 else i, "q": {"z": i}} for i in range(count)]),
        "odd": pa.array([None if i % 3 else [[i], None] for i in range(count)]),
        "text": pa.array(["t" * 100] * count),
        "meta": pa.array([{"a": i} for i in range(count)]),
        "vector": pa.array([{"type": 0, "size": 2**30, "indices": [i], "values": [1.0]} for i in range(count)], VECTOR),
        "y": pa.array(range(count), pa.int64()),
    })  # fmt: skip
    with Channel.create(memory="1m", slot_bytes="16k", form=None) as channel:
        got, reader = read(channel, lambda writer: writer.write_batch(table), SPEC | {"struct.q.z": ("int64", ())})
        assert list(got) == ["x", "struct.q.z", "y"]
        assert same(got["struct.q.z"], np.arange(count))
        assert same(got["y"], np.arange(count, dtype=np.int32))
        kinds = {column.name: column.kind for column in reader.schema.columns}  # type: ignore[union-attr]
        wanted, others = ("x", "struct.q.z", "y"), ("map", "struct.p", "odd", "text", "meta", "vector")
        assert kinds == dict.fromkeys(wanted, "fixed") | dict.fromkeys(others, "unused")
        reader.close()


def test_what_was_packed_before_the_spec_was_known_is_left_out_by_the_reader() -> None:
    with Channel.create(memory="1m", slot_bytes="4k", form="columns", writers=1) as channel:
        with channel.writer() as writer:
            writer.write_rows((float(i), "text", i) for i in range(100))
        reader = channel.reader()
        reader.open_columns(32, {"c2": ("float32", ())}, only=True)
        batches = list(reader.batches(32))
        assert all(list(batch) == ["c2"] for batch in batches)
        assert np.concatenate([batch["c2"] for batch in batches]).tolist() == list(range(100))
        reader.close()


numbers = st.one_of(
    st.integers(-(2**31), 2**31 - 1),
    st.floats(allow_nan=False),
    st.booleans(),
    st.lists(st.floats(allow_nan=False), min_size=1, max_size=20),
    st.lists(st.integers(0, 300), min_size=1, max_size=5).map(tuple),
    st.integers(1, 40).map(lambda n: np.arange(n, dtype=np.uint8)),
    st.floats(allow_nan=False).map(np.float32),
)


@given(st.lists(numbers, min_size=1, max_size=8), st.data())
@some
def test_rows_that_are_alike_are_compared_and_packed_without_what_is_unused(first: list[Any], data: st.DataObject) -> None:
    """As many rows as one, with other numbers where that keeps the bytes' places."""
    wanted = data.draw(st.sets(st.integers(0, len(first) - 1)))
    rows = [tuple(value + i % 2 if type(value) is float else value for value in first) for i in range(40)]
    schema = leave_out(infer(rows[0], exact=False), {f"c{i}" for i in wanted})
    batch, memory = StreamBatch(), slot(1 << 16)
    for _ in range(2):  # the second time all rows follow the pattern
        assert batch.load(pickle.dumps(rows, 5))
    packer = RowPacker(schema, exact=False)
    form = plan(schema, 1 << 16, batch=1, heap_per_row=0)
    packer.bind(memory, form)
    assert pack_stream(packer, batch, 60.0) == END
    got = decode.columns(form, memory, 0, 40)
    whole = infer(rows[0], exact=False)
    assert list(got) == [f"c{i}" for i in sorted(wanted)]
    for i in wanted:
        assert same(got[f"c{i}"], np.array([row[i] for row in rows], whole.columns[i].dtype))


def test_the_pattern_serves_rows_with_unused_columns() -> None:
    rows = [([0.5 * i] * 30, i % 2 == 0, np.full(600, i % 200, np.uint8), i % 100, 1.5, 2.5) for i in range(300)]
    schema = leave_out(apply_spec(infer(rows[0], exact=False), {"c3": ("int32", ())}), ["c3", "c5"])
    batch, memory = StreamBatch(), slot(1 << 16)
    for _ in range(2):
        assert batch.load(pickle.dumps(rows, 5))
    packer = RowPacker(schema, exact=False, cast=True)
    form = plan(schema, 1 << 16, batch=1, heap_per_row=0)
    packer.bind(memory, form)
    assert pack_stream(packer, batch, 60.0) == END
    assert batch.compared  # it was not parsed again
    expected = {"c3": np.array([i % 100 for i in range(300)], np.int32), "c5": np.full(300, 2.5)}
    assert same(decode.columns(form, memory, 0, 300), expected)
