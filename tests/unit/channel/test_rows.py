"""Rows in every order and shape: widening, mixing, epochs, attempts. Most of these lost rows once."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.support.helpers import broker_here, ended, in_thread
from tfos_fast.channel import Channel, Form
from tfos_fast.errors import FormError, RowTooLarge


@pytest.mark.parametrize("mode", ["columns", "rows"])
def test_widening_in_mid_slot_loses_no_row(mode: str):
    """The tail behind the last whole batch was moved to a slot that the widening then forgot."""
    rows: list[Any] = [*range(100), *(0.5 + i for i in range(100, 200))]
    with Channel.create(memory="1m", form=None) as channel, channel.reader() as reader:
        reader._declare(Form(mode, 64))  # type: ignore[arg-type]
        with channel.writer() as writer:
            writer.write_rows(rows)
        if mode == "rows":
            assert reader.next_rows(300) == rows
        else:
            assert [value for batch in reader.batches(64) for value in batch["c0"].tolist()] == rows


@pytest.mark.parametrize("first", ["rows", "arrow"])
def test_rows_and_arrow_batches_of_one_partition_keep_every_row_and_the_order(first: str):
    steps = ["rows", "arrow"] * 5 if first == "rows" else ["arrow", "rows"] * 5
    with Channel.create(memory="1m", form=None) as channel:

        def write() -> None:
            with channel.writer() as writer:
                at = 0
                for step in steps:
                    values = list(range(at, at + 100))
                    at += 100
                    if step == "rows":
                        writer.write_rows((value, float(value)) for value in values)
                    else:
                        writer.write_batch(pa.RecordBatch.from_pydict({"c0": values, "c1": [float(v) for v in values]}))

        thread, out = in_thread(write)
        with channel.reader() as reader:
            reader.open_columns(64, wait=False)
            seen = [value for batch in reader.batches(64) for value in batch["c0"].tolist()]
        ended(thread)
        assert out == [None]
        assert seen == list(range(1000))


def test_arrow_batches_that_widen_keep_every_row():
    with Channel.create(memory="1m", form=None) as channel, channel.reader() as reader:
        reader.open_columns(64, wait=False)
        with channel.writer() as writer:
            writer.write_batch(pa.RecordBatch.from_pydict({"x": list(range(100))}))
            writer.write_batch(pa.RecordBatch.from_pydict({"x": [value + 0.5 for value in range(100, 200)]}))
        seen = [value for batch in reader.batches(64) for value in batch["x"].tolist()]
        assert seen == [*range(100), *(value + 0.5 for value in range(100, 200))]


def test_several_writers_widen_one_schema_and_older_slots_are_converted():
    with Channel.create(memory="1m", form=None, writers=3) as channel:
        ready = threading.Barrier(3)

        def write(value: Callable[[int], Any]) -> None:
            with channel.writer() as writer:
                writer.open_partition()
                writer.write_rows((value(i), {"a": i}) for i in range(20))
                ready.wait(10)  # all have told their types before there is a whole batch, which would settle them
                writer.write_rows((value(i), {"a": i}) for i in range(20, 500))

        threads = [in_thread(lambda kind=kind: write(kind)) for kind in (bool, int, float)]
        with channel.reader() as reader:
            reader.open_columns(70, wait=False)
            batches = list(reader.batches(70))
            dtypes = {batch["c0"].dtype for batch in batches}
            assert sum(len(batch["c0"]) for batch in batches) == 1500
        for thread, out in threads:
            ended(thread)
            assert out == [None]
        assert len(dtypes) == 1


@pytest.mark.parametrize("batch", [1, 7, 100, 1000, 5000])
def test_batches_of_any_size_even_larger_than_the_segment(batch: int):
    rows = 12_000  # 16 slots of 4 KiB hold 8192 rows
    with Channel.create(memory="64k", slot_bytes="4k", form=None) as channel:

        def write() -> None:
            with channel.writer() as writer:
                for start in (0, rows // 3):
                    stop = rows // 3 if start == 0 else rows
                    writer.write_rows(range(start, stop))
                    writer.end_partition()

        thread, _ = in_thread(write)
        with channel.reader() as reader:
            seen = np.concatenate([part["c0"] for part in reader.batches(batch)])
            assert (np.sort(seen) == np.arange(rows)).all()
        ended(thread)


def test_an_attempt_that_goes_on_keeps_the_order_of_the_partition():
    """The first attempt's tail was put behind the rows of the second."""
    with Channel.create(memory="1m", form="columns", writers=2) as channel:
        old, new = channel.writer(), channel.writer()
        reader = channel.reader()
        reader.open_columns(64, wait=False)
        old.open_partition("p", 0)
        old.write_rows(range(100))
        old._slots.publish(whole=True)
        old._conn.status()  # the broker has it
        skip = new.open_partition("p", 1)
        assert skip == 100
        new.write_rows(range(skip, 300))
        new.end_partition()
        new.close()
        old.close()
        assert np.concatenate([batch["c0"] for batch in reader.batches(64)]).tolist() == list(range(300))
        reader.close()


def test_a_row_that_cannot_be_packed_is_reported_once():
    with Channel.create(memory="256k", slot_bytes="16k", form="columns") as channel, channel.writer() as writer:
        with pytest.raises(RowTooLarge):
            writer.write_rows([("small",), ("x" * 20_000,)])
        writer.write_rows([("after",)])
        writer.end_partition()
        with channel.reader() as reader:
            assert next(reader.batches(2))["c0"].tolist() == ["small", "after"]


def test_an_arrow_row_larger_than_a_slot():
    with Channel.create(memory="256k", slot_bytes="16k") as channel:
        writer = channel.writer()
        with pytest.raises(RowTooLarge, match="slot_bytes"):
            writer.write_batch(pa.RecordBatch.from_pydict({"x": ["a", "x" * 20_000]}))
        writer.close()


def test_a_spec_declared_after_writers_began_is_applied_by_the_reader():
    """It was silently ignored."""
    with Channel.create(memory="1m") as channel:
        with channel.writer() as writer:
            writer.write_rows([(1.5, 2), (2.5, 3)])
        with channel.reader() as reader:
            batch = next(reader.batches(2, spec={"c0": ("float32", None), "c1": ("uint8", None)}))
            assert batch["c0"].dtype == np.float32
            assert batch["c1"].dtype == np.uint8
            assert batch["c1"].tolist() == [2, 3]


def test_another_mode_than_writers_began_with_is_refused_before_the_first_row():
    with Channel.create(memory="1m") as channel, channel.writer() as writer:
        writer.open_partition()
        with channel.reader() as reader, pytest.raises(FormError, match="writers came first"):
            reader.next_rows(1)


def test_an_epoch_without_rows_before_the_first_row():
    with broker_here(form=Form("columns", 8)) as broker, Channel.attach(broker.address) as channel:
        reader = channel.reader()
        reader.open_columns(8, wait=False)
        broker.do(broker.end_epoch)
        with channel.writer() as writer:
            writer.write_rows(range(8))
        assert next(reader.batches(8))["c0"].tolist() == list(range(8))
        reader.close()


def test_epoch_ends_and_batches():
    with broker_here() as broker, Channel.attach(broker.address) as channel:
        reader = channel.reader()
        reader.open_columns(8, wait=False)
        with channel.writer() as writer:
            for epoch in range(3):
                writer.write_rows(range(epoch * 100, epoch * 100 + 20))
                writer.end_partition()
                writer._conn.status()
                broker.do(broker.end_epoch)
        broker.do(broker.end_feed)
        for epoch in range(2):
            seen: list[int] = []
            while (batch := reader.next_batch(8, epoch_ends=True)) is not None:
                seen += batch.columns["c0"].tolist()
            assert sorted(seen) == list(range(epoch * 100, epoch * 100 + 20))
        assert sorted(v for batch in reader.batches(8) for v in batch["c0"].tolist()) == list(range(200, 220))
        assert reader.ended
        reader.close()


class Odd(float):
    """A number that only the unpickler can make."""


@pytest.mark.parametrize("mode", ["columns", "rows"])
@pytest.mark.parametrize("skip", [0, 1, 700, 1000, 2500])
def test_pickled_batches_with_odd_ones_and_rows_to_skip(mode: str, skip: int):
    """Batches that can be read, one that must be unpickled, and an empty one."""
    batches = [
        [(float(i), i) for i in range(700)],
        [(complex(0, 1) if mode == "rows" else Odd(i), i) for i in range(300)],
        [],
        [(float(i), i) for i in range(1500)],
    ]
    rows = [row for batch in batches for row in batch]
    with Channel.create(memory="256k", slot_bytes="4k", form=None) as channel:
        thread, written = in_thread(lambda: write_pickled(channel, [pickle.dumps(batch, 5) for batch in batches], skip))
        with channel.reader() as reader:
            if mode == "rows":
                found = []
                while not reader.ended:
                    found += reader.next_rows(64)
                assert found == rows[skip:]
            else:
                found = [pair for batch in reader.batches(64) for pair in zip(*(c.tolist() for c in batch.values()), strict=True)]
                assert found == rows[skip:]
        ended(thread)
        assert written == [len(rows) - skip]


def write_pickled(channel: Channel, batches: list[bytes], skip: int) -> int:
    with channel.writer() as writer:
        return writer.write_pickled(batches, skip=skip)


def test_pickled_batches_and_rows_of_one_partition():
    with Channel.create(memory="256k", form="rows") as channel:
        with channel.writer() as writer:
            writer.write_rows([(1, "a")])
            writer.write_pickled([pickle.dumps([(2, "b"), (3, None)])])
            writer.write_rows([(4, "d")])
        with channel.reader() as reader:
            assert reader.next_rows(4) == [(1, "a"), (2, "b"), (3, None), (4, "d")]


def test_rows_taken_are_counted_in_each_partition():
    """A call that opened a partition by itself, after another one, gave the difference to that one's count."""
    with broker_here(form=Form("rows")) as broker, Channel.attach(broker.address).writer() as writer:
        assert writer.write_rows(range(3)) == 3
        assert writer.write_rows(range(2)) == 2
        writer.end_partition()
        assert writer.write_pickled([pickle.dumps([1, 2, 3, 4])]) == 4


@pytest.mark.parametrize("size", [511, 512, 513, 784, 1000, 4099])
@pytest.mark.parametrize("slot", ["64k", "1m"])
def test_arrays_of_any_size_lie_whole_in_small_and_large_slots(size: int, slot: str):
    """Large values in large slots are written past the caches, by stores that want aligned addresses."""
    values = np.random.default_rng(size).integers(0, 256, (300, size), np.uint8)
    with Channel.create(memory="8m", slot_bytes=slot) as channel, channel.reader() as reader:

        def write() -> None:
            with channel.writer() as writer:
                writer.write_pickled([pickle.dumps([(row, i) for i, row in enumerate(values)])])

        thread, _ = in_thread(write)
        found = list(reader.batches(64))
        ended(thread)
    assert np.array_equal(np.concatenate([batch["c0"] for batch in found]), values)
    assert np.concatenate([batch["c1"] for batch in found]).tolist() == list(range(300))
