"""The channel between real processes: order, memory, backpressure, leases, deaths."""

from __future__ import annotations

import gc
import os
import threading
import time
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.support.helpers import child, inside, wait_for, write_forever
from tfos_fast.channel import Channel
from tfos_fast.errors import (
    AddressError,
    ChannelClosed,
    Fenced,
    FormError,
    NotEnoughMemory,
    RowTooLarge,
    SchemaMismatch,
    SegmentError,
    StallTimeout,
)
from tfos_fast.values.aligned import is_aligned


def memory_mb(pid: int) -> float:
    """Private resident memory: what the segment's shared pages cannot hide."""
    with open(f"/proc/{pid}/status") as status:
        fields = dict(line.split(":", 1) for line in status)
    return int(fields["RssAnon"].split()[0]) / 1024


def write_numbers(pipe: Any, address: str, first: int, count: int, width: int) -> None:
    with Channel.attach(address).writer() as writer:
        writer.write_rows((i, np.full(width, i, np.float32)) for i in range(first, first + count))
        pipe.send(memory_mb(os.getpid()))


def test_example_in_one_process():
    with Channel.create(memory="64m") as channel:
        writer = Channel.attach(channel.address).writer()
        writer.write_rows([(1.0, "a"), (2.0, "b")])
        writer.write_batch(pa.RecordBatch.from_pydict({"c0": [3.0], "c1": ["c"]}))
        writer.end_partition()
        writer.close()
        reader = Channel.attach(channel.address).reader()
        batches = list(reader.batches(256))
        assert len(batches) == 1
        assert batches[0]["c0"].tolist() == [1.0, 2.0, 3.0]
        assert batches[0]["c1"].tolist() == ["a", "b", "c"]
        assert reader.ended
        reader.close()


def test_partition_ten_times_the_segment_in_order_with_flat_memory():
    width, rows = 1024, 10 * 4096  # 160 MiB through 16 MiB
    with Channel.create(memory="16m") as channel, child(write_numbers, channel.address, 0, rows, width) as writer:
        with Channel.attach(channel.address).reader() as reader:
            size = reader.segment.size
            expected = 0
            early = 0.0
            for batch in reader.batches(64):
                n = len(batch["c0"])
                assert (batch["c0"] == np.arange(expected, expected + n)).all()
                assert (batch["c1"] == batch["c0"][:, None]).all()
                expected += n
                if expected == 64 * 64:
                    early = memory_mb(os.getpid())
            assert expected == rows
            assert reader.segment.size == size
            assert memory_mb(os.getpid()) - early < 16
            assert reader.summary["copied"] == 0
        assert writer.hear() < 120  # the interpreter, numpy and pyarrow; the data are 160 MiB
        writer.join()


def test_several_writers_every_row_once_and_each_in_order():
    count = 3000
    with Channel.create(memory="2m", writers=3) as channel:
        with (
            child(write_numbers, channel.address, 0, count, 16),
            child(write_numbers, channel.address, 10_000, count, 16),
            child(write_numbers, channel.address, 20_000, count, 16),
            Channel.attach(channel.address).reader() as reader,
        ):
            seen = np.concatenate([batch["c0"].copy() for batch in reader.batches(100)])
        for start in (0, 10_000, 20_000):
            mine = seen[(seen >= start) & (seen < start + 10_000)]
            assert (mine == np.arange(start, start + count)).all()
        assert len(seen) == 3 * count


def test_arrays_lie_inside_the_segment_and_keep_their_slot():
    with Channel.create(memory="1m", slot_bytes="64k") as channel:
        writer = channel.writer()
        rows_per_slot = 64 * 1024 // (4 * 16)
        writer.write_rows(np.full(16, i, np.float32) for i in range(rows_per_slot * 4))
        writer.end_partition()
        writer.close()
        with channel.reader() as reader:
            batch = next(reader.batches(64))["c0"]
            assert inside(batch, reader)
            assert is_aligned(batch)
            assert batch.flags.writeable  # DLPack wants that
            capsule = batch.__dlpack__()
            free = channel.status()["slots"]["free"]
            for _ in range(rows_per_slot // 64 - 1):
                next(reader.batches(64))
            del batch
            gc.collect()
            reader.next_batch(64)
            time.sleep(0.2)
            assert channel.status()["slots"]["free"] == free  # the capsule still aliases the slot
            del capsule
            reader.next_batch(64)
            wait_for(lambda: channel.status()["slots"]["free"] == free + 1)


def test_a_slot_is_not_reused_while_an_array_aliases_it():
    with (
        Channel.create(memory="256k", slot_bytes="16k") as channel,
        child(write_numbers, channel.address, 0, 20_000, 16) as writer,
    ):
        with channel.reader() as reader:
            source = reader.batches(64)
            kept = [(i, batch["c1"]) for i, batch in zip(range(3), source, strict=False)]
            for _ in source:
                pass
            for i, array in kept:
                assert (array[:, 0] == np.arange(i * 64, i * 64 + 64)).all()
        writer.hear()


def test_a_reader_that_keeps_everything_never_stops_progress():
    rows = 20_000
    with (
        Channel.create(memory="256k", slot_bytes="16k") as channel,
        child(write_numbers, channel.address, 0, rows, 16) as writer,
    ):
        with channel.reader() as reader:
            kept = list(reader.batches(64))
            assert reader.summary["hoarded"] > 0
            inside_count = sum(inside(batch["c1"], reader) for batch in kept)
            assert 0 < inside_count < len(kept)
            assert (np.concatenate([batch["c0"] for batch in kept]) == np.arange(rows)).all()
        writer.hear()
        del kept


def test_unaligned_batches_are_copied_to_aligned_memory():
    with Channel.create(memory="1m") as channel:
        writer = channel.writer()
        writer.write_rows((np.full(3, i, np.float32), i) for i in range(500))
        writer.end_partition()
        writer.close()
        with channel.reader() as reader:
            at = 0
            for batch in reader.batches(7):
                assert all(is_aligned(array) for array in batch.values())
                assert (batch["c1"] == np.arange(at, at + len(batch["c1"]))).all()
                at += len(batch["c1"])
            assert at == 500
            assert reader.summary["copied"] > 0


def test_tails_go_to_the_carry_and_whole_batches_stay_aliased():
    with Channel.create(memory="4m") as channel:
        with channel.writer() as writer:
            for partition in range(5):
                writer.write_rows((partition, i) for i in range(64 * 3 + 10))
                writer.end_partition()
        with channel.reader() as reader:
            sizes = [len(batch["c0"]) for batch in reader.batches(64)]
            assert sum(sizes) == 5 * (64 * 3 + 10)
            assert sizes[:-1] == [64] * (len(sizes) - 1)
            assert reader.summary["aliased"] == 15


@pytest.mark.parametrize("n", [32, 256, 1024])
def test_batches_of_a_writer_that_came_first_are_aliased_too(n):
    with Channel.create(memory="4m") as channel:
        with channel.writer() as writer:
            writer.write_rows((i, float(i)) for i in range(50_000))
        with channel.reader() as reader:
            at = 0
            for batch in reader.batches(n):
                assert (batch["c0"] == np.arange(at, at + len(batch["c0"]))).all()
                at += len(batch["c0"])
            assert at == 50_000
            assert reader.summary["copied"] == (50_000 % n > 0)


def test_single_rows_of_a_slow_writer_do_not_wait_for_a_full_slot():
    with Channel.create(memory="1m") as channel, channel.writer() as writer, channel.reader() as reader:
        writer.write_rows([0])
        assert reader.next_batch(1, timeout=0.0) is None  # the first one: the reader asks for it now
        seen: list[int] = []
        row = 0
        while len(seen) < 3:
            row += 1
            writer.write_rows([row])
            if batch := reader.next_batch(1, timeout=0.05):
                seen += batch.columns["c0"].tolist()
        assert seen == [0, 1, 2]
        assert row < 1000  # a slot holds many more
        reader.terminate()


def test_rows_come_back_as_they_were_fed():
    rows = [
        (1, 1.5, "x", b"y", None, [1, 2], (1.0, 2.0), True, {"a": 1}),
        (2, 2.5, "é", b"", "now text", [3, 4], (0.0, -1.0), False, {}),
    ]
    with Channel.create(memory="1m", form="rows") as channel:
        with channel.writer() as writer:
            writer.write_rows(rows * 500)
        with channel.reader() as reader:
            back = []
            while not reader.ended:
                back += reader.next_rows(33)
        assert back == rows * 500
        assert [[type(value) for value in row] for row in back[:2]] == [[type(value) for value in row] for row in rows]


def test_schema_widens_until_the_first_batch_is_out():
    with Channel.create(memory="1m") as channel:
        writer = channel.writer()
        writer.write_rows([(1,), (2.5,)])
        writer.end_partition()
        with channel.reader() as reader:
            batch = next(reader.batches(2))
            assert batch["c0"].dtype == np.float64
            assert batch["c0"].tolist() == [1.0, 2.5]
            with pytest.raises(SchemaMismatch, match=r"partition part-7, row 1: .*c0.*float64"):
                writer.open_partition("part-7", 0)
                writer.write_rows([(3,), ("text",)])
            writer.close()


def test_less_than_a_batch_does_not_hold_the_feed_up():
    with Channel.create(memory="1m", form=None, writers=0) as channel:
        errors: list[BaseException] = []

        def write() -> None:
            try:
                writer = channel.writer(stall_timeout=5.0)
                writer.write_rows([(1, 2.0), (2, 3.0)])
                writer.end_partition()
                writer.close(wait=True)
            except BaseException as error:
                errors.append(error)
            channel.end_feed()

        thread = threading.Thread(target=write)
        thread.start()
        with channel.reader() as reader:
            assert [batch["c0"].tolist() for batch in reader.batches(64)] == [[1, 2]]
        thread.join(20)
        assert errors == []


def test_declared_spec_casts_and_refuses():
    with Channel.create(memory="1m", form=None) as channel:
        errors: list[BaseException] = []

        def write() -> None:
            try:
                with channel.writer() as writer:
                    writer.write_rows([([1.0, 2.0], 3), ([3.0, 4.0], 300)])
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=write)
        thread.start()
        with channel.reader() as reader:
            batch = next(reader.batches(1, spec={"c0": ("float32", None), "c1": ("uint8", None)}))
            assert batch["c0"].dtype == np.float32
            assert batch["c1"].dtype == np.uint8
            thread.join(30)
        assert isinstance(errors[0], SchemaMismatch)
        assert "row 1" in str(errors[0])
        assert "c1" in str(errors[0])


def test_arrow_batches_larger_than_a_slot():
    table = pa.RecordBatch.from_pydict({"x": np.arange(50_000, dtype=np.float64), "name": [f"n{i}" for i in range(50_000)]})
    with Channel.create(memory="1m") as channel:
        thread = threading.Thread(target=lambda: _write_arrow(channel, table))
        thread.start()
        with channel.reader() as reader:
            x, names = [], []
            for batch in reader.batches(128):
                x.append(batch["x"].copy())
                names += batch["name"].tolist()
        thread.join(30)
        assert (np.concatenate(x) == np.arange(50_000)).all()
        assert names == [f"n{i}" for i in range(50_000)]


def _write_arrow(channel: Channel, table: pa.RecordBatch) -> None:
    with channel.writer() as writer:
        writer.write_batch(table)


def test_backpressure_holds_the_writer():
    with Channel.create(memory="256k") as channel, child(write_forever, channel.address) as writer:
        assert writer.hear() == "middle"
        time.sleep(0.5)
        first = channel.status()
        time.sleep(0.5)
        assert channel.status()["rows_published"] == first["rows_published"]
        assert first["slots"]["free"] == 0
        with channel.reader() as reader:
            next(reader.batches(64))
            reader.terminate()


def test_inference_results_go_back_to_their_rows():
    def serve() -> None:
        with channel.reader(train_mode=False) as reader:
            while not reader.ended:
                reader.write_results([("result", row[0] * 2) for row in reader.next_rows(50)])

    with Channel.create(memory="1m", form="rows", writers=2) as channel:
        writers = [channel.writer() for _ in range(2)]
        server = threading.Thread(target=serve)
        server.start()
        out: dict[int, list[Any]] = {}

        def exchange(index: int) -> None:
            with writers[index] as writer:
                rows = ((index * 100_000 + i, "payload") for i in range(5003))
                out[index] = [result for results in writer.exchange(rows) for result in results]

        threads = [threading.Thread(target=exchange, args=(i,)) for i in range(2)]
        for thread in threads:
            thread.start()
        for thread in [*threads, server]:
            thread.join(60)
        for index in range(2):
            assert out[index] == [("result", (index * 100_000 + i) * 2) for i in range(5003)]


def test_newer_attempt_fences_the_older():
    with Channel.create(memory="1m") as channel, channel.writer() as old, channel.writer() as new:
        old.open_partition("p", 0)
        old.write_rows([(1,)])
        new.open_partition("p", 1)
        with pytest.raises(Fenced, match="attempt 0 at partition p was replaced by attempt 1"):
            for _ in range(100):
                old.write_rows([(2,)] * 1000)
        new.write_rows([(1,)])
        old._partition.stream = None


def test_terminate_ends_writers_quickly():
    with Channel.create(memory="256k") as channel, child(write_forever, channel.address):
        with channel.reader() as reader:
            next(reader.batches(64))
            reader.terminate()
            assert reader.ended
            assert list(reader.batches(64)) == []


def test_a_second_reader_and_a_second_mode_are_refused():
    with Channel.create(memory="1m") as channel, channel.reader() as reader:
        channel.writer().close()
        assert list(reader.batches(8)) == []
        with pytest.raises(FormError, match="do not mix"):
            reader.next_rows(1)
        with pytest.raises(FormError, match="already reads"), channel.reader() as second:
            second.next_batch(8)


def test_row_larger_than_a_slot_names_the_setting():
    with (
        Channel.create(memory="256k", slot_bytes="16k") as channel,
        channel.writer() as writer,  # and its end is an orderly one
        pytest.raises(RowTooLarge, match="slot_bytes"),
    ):
        writer.write_rows([np.zeros(5000)])


def test_waiting_ends_when_nothing_moves():
    with Channel.create(memory="64k", slot_bytes="4k") as channel:
        writer = channel.writer(stall_timeout=3.0)
        with pytest.raises(StallTimeout, match=r"a free slot.*no reader is attached.*stall_timeout"):
            writer.write_rows((i,) for i in range(10**6))
        writer.close()


def test_too_much_memory_and_too_few_slots():
    with pytest.raises(NotEnoughMemory, match="memory"):
        Channel.create(memory="4t")
    with pytest.raises(SegmentError, match="at least 4"):
        Channel.create(memory="8k", slot_bytes="4k")
    with pytest.raises(ValueError, match="64m"):
        Channel.create(memory="lots")


def test_bad_addresses():
    for address in ("", "tfos:", "ipc:///tmp/x", "tfos:1:2:3:zz:/x"):
        with pytest.raises(AddressError):
            Channel.attach(address)
    with pytest.raises(AddressError, match="gone"):
        Channel.attach("tfos:999999:1:3:00:/x")


def test_arrays_outlive_channel_and_reader():
    with Channel.create(memory="1m") as channel:
        with channel.writer() as writer:
            writer.write_rows((float(i),) for i in range(64))
        with channel.reader() as reader:
            batch = next(reader.batches(64))
    assert batch["c0"].sum() == 64 * 63 / 2
    with pytest.raises(ChannelClosed):
        next(reader.batches(64))


def test_who_enters_as_a_writer_asks_and_writes_over_one_connection():
    with Channel.create("1m", slot_bytes="64k", form="columns", writers=2) as channel:
        with Channel.attach(channel.address) as other:
            assert other.enter()["writers"] == 1
            writer = other.writer()
        with writer:  # it lives on when the handle is closed
            writer.write_rows([1, 2, 3])
        with Channel.attach(channel.address) as other:
            other.enter()
        wait_for(lambda: channel.status()["writers"] == 0)
        with channel.reader() as reader:
            assert [row for batch in reader.batches(4) for row in batch["c0"].tolist()] == [1, 2, 3]
