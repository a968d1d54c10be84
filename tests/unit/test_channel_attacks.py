"""The channel under misuse and bad luck: most of these lost rows, leaked slots, hung, or killed the broker once."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
import zmq

from tests.unit.helpers import child
from tests.unit.test_channel import wait_for
from tfos_fast.channel import Channel, Form
from tfos_fast.channel import messages as m
from tfos_fast.channel.address import Address
from tfos_fast.channel.broker import Broker
from tfos_fast.channel.processes import started
from tfos_fast.channel.segment import Segment
from tfos_fast.errors import ChannelClosed, Fenced, FormError, RowTooLarge, SchemaMismatch, StallTimeout, TfosError, WriterDied


def in_thread(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Run in a thread; what it returned or raised goes to the list."""
    out: list[Any] = []

    def run() -> None:
        try:
            out.append(work())
        except BaseException as error:
            out.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, out


def ended(thread: threading.Thread) -> None:
    thread.join(15)
    assert not thread.is_alive()


def free(channel: Channel) -> int:
    return channel.status()["slots"]["free"]


# ---- rows --------------------------------------------------------------------------------------------------------------------


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
                ready.wait(10)
                writer.write_rows((value(i), {"a": i}) for i in range(500))

        threads = [in_thread(lambda kind=kind: write(kind)) for kind in (bool, int, float)]
        with channel.reader() as reader:
            reader.open_columns(70, wait=False)
            batches = list(reader.batches(70))
            dtypes = {batch["c0"].dtype for batch in batches}
            assert sum(len(batch["c0"]) for batch in batches) == 1500
        for thread, out in threads:
            ended(thread)
            assert out == [None] or isinstance(out[0], SchemaMismatch)
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
        old._publish(whole=True)
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


# ---- leases ------------------------------------------------------------------------------------------------------------------


def test_arrays_that_outlive_their_reader_are_not_overwritten():
    """A reader that closed in order gave its slots back although arrays aliased them."""
    with Channel.create(memory="64k", slot_bytes="4k", form="columns") as channel:
        writer = channel.writer()
        go_on = threading.Event()

        def rows() -> Iterator[int]:
            yield from range(2000)
            go_on.wait(10)
            for _ in range(10):
                yield from [-1] * 2000

        thread, _ = in_thread(lambda: writer.write_rows(rows()))
        reader = channel.reader()
        kept = [reader.next_batch(512).columns["c0"] for _ in range(3)]
        channel.end_feed()  # the reader may leave, and this writer goes on
        reader.close()
        wait_for(lambda: not channel.status()["reader"])
        go_on.set()
        ended(thread)
        assert np.concatenate(kept).tolist() == list(range(1536))
        writer.close()


def test_a_second_reader_after_the_first_left_gets_the_end():
    with Channel.create(memory="256k", form="columns") as channel:
        with channel.writer() as writer:
            writer.write_rows(range(1000))
        with channel.reader() as first:
            half = next(first.batches(64))["c0"]
        with channel.reader() as second:
            thread, out = in_thread(lambda: list(second.batches(64)))
            ended(thread)
            assert out == [[]]
        assert half.tolist() == list(range(64))


def test_writers_end_when_the_reader_leaves_after_the_feed_was_ended():
    """They waited for rows that nobody would take."""
    with Channel.create(memory="256k", slot_bytes="4k", form="columns") as channel:
        writer = channel.writer()
        reader = channel.reader()
        reader.open_columns(64, wait=False)
        writer.write_rows(range(10_000))
        writer.end_partition()
        channel.end_feed()
        thread, out = in_thread(lambda: writer.close(wait=True))
        reader.next_batch(64)
        reader.close()
        ended(thread)
        assert out == [None]


def test_a_hoarding_reader_and_a_writer_that_waits_for_its_rows():
    """The slots in the waiting writer's hands were those that had to stay in motion."""
    with Channel.create(memory="32k", slot_bytes="4k", form="columns", writers=2) as channel:
        release = threading.Event()

        def slowly() -> Iterator[int]:
            yield -1
            release.wait(20)
            yield -2

        slow, quick = channel.writer(), channel.writer()

        def write_slowly() -> None:
            slow.write_rows(slowly())
            slow.end_partition()
            slow.close()

        def write_quickly() -> None:
            quick.write_rows(range(20_000))
            quick.end_partition()
            quick.close()

        waiting, _ = in_thread(write_slowly)
        wait_for(lambda: channel.status()["slots"]["granted"] >= 1)
        busy, _ = in_thread(write_quickly)
        with channel.reader() as reader:
            kept = []
            thread, _ = in_thread(lambda: kept.extend(reader.batches(64)))
            ended(busy)
            release.set()
            ended(waiting)
            ended(thread)
            seen = np.concatenate([batch["c0"] for batch in kept])
            assert seen[seen >= 0].tolist() == list(range(20_000))


def test_a_writer_between_partitions_holds_no_slot():
    with Channel.create(memory="32k", slot_bytes="4k", form="columns", writers=2) as channel:
        reader = channel.reader()
        reader.open_columns(8, wait=False)
        with channel.writer() as idle:
            for _ in range(3):  # granted slots of one partition are not used in the next
                idle.write_rows(range(8))
                idle.end_partition()
                assert reader.next_batch(8).columns["c0"].tolist() == list(range(8))
                wait_for(lambda: free(channel) == channel.status()["slots"]["free"] and channel.status()["slots"]["granted"] == 0)
        reader.close()


@pytest.mark.parametrize("where", ["before", "open", "published"])
def test_a_writer_dropped_without_close_is_gone(where: str):
    """The broker believed in it as long as its process lived: its slots were lost and the feed never ended."""
    with Channel.create(memory="64k", slot_bytes="4k", form="columns") as channel:
        writer = channel.writer()
        if where != "before":
            writer.write_rows(range(10))
        if where == "published":
            writer.end_partition()
        del writer
        gc.collect()
        wait_for(lambda: channel.status()["writers"] == 0)
        assert channel.status()["slots"]["granted"] == 0


def test_a_reader_dropped_without_close_is_gone():
    with Channel.create(memory="64k", slot_bytes="4k", form="columns") as channel:
        with channel.writer() as writer:
            writer.write_rows(range(100))
        reader = channel.reader()
        array = next(reader.batches(64))["c0"]
        del reader
        gc.collect()
        wait_for(lambda: not channel.status()["reader"])
        assert array.tolist() == list(range(64))


def test_use_after_fork_is_refused():
    with Channel.create(memory="64k", slot_bytes="4k", form="columns") as channel:
        with channel.writer() as writer:
            writer.write_rows(range(100))
        reader = channel.reader()
        source = reader.batches(64)
        array = next(source)["c0"]

        def use(pipe: Any) -> None:
            for what in (lambda: next(source), reader.close, lambda: channel.writer().close()):
                try:
                    what()
                    pipe.send("fine")
                except TfosError as error:
                    pipe.send(f"{type(error).__name__}: {error}")
            pipe.send(array.tolist() == list(range(64)))

        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe()
        process = context.Process(target=use, args=(theirs,))
        process.start()
        heard = []
        for _ in range(4):
            assert ours.poll(10)
            heard.append(ours.recv())
        process.join(10)
        assert process.exitcode == 0
        assert "attach anew after a fork" in heard[0]
        assert heard[-1] is True
        assert next(source)["c0"].tolist() == list(range(64, 100))  # the parent goes on
        reader.close()


# ---- ends --------------------------------------------------------------------------------------------------------------------


def test_a_writer_that_leaves_in_mid_partition_is_an_error_behind_its_rows():
    """An exception in the source of rows looked like the end of the partition."""
    with Channel.create(memory="64k", slot_bytes="4k", form="columns") as channel:

        def rows() -> Iterator[int]:
            yield from range(1000)
            raise RuntimeError("the source failed")

        with pytest.raises(RuntimeError), channel.writer() as writer:
            writer.open_partition("part-1")
            writer.write_rows(rows())
        with channel.reader() as reader:
            source = reader.batches(64)
            assert next(source)["c0"].tolist() == list(range(64))
            with pytest.raises(WriterDied, match=r"in the middle of partition part-1"):
                list(source)


def test_terminate_while_another_thread_waits_for_rows():
    with Channel.create(memory="64k", slot_bytes="4k", form="columns") as channel:
        reader = channel.reader()
        reader.open_columns(64, wait=False)
        thread, out = in_thread(lambda: list(reader.batches(64)))
        wait_for(lambda: reader._lock.acquire(blocking=False) is False or reader._lock.release() is not None)
        assert not reader.ended  # does not wait either
        reader.terminate()
        ended(thread)
        assert out == [[]]
        reader.close()


@pytest.mark.parametrize("mode", ["columns", "rows"])
@pytest.mark.parametrize("when", ["first", "middle", "last", "twice"])
def test_terminate_in_every_state(mode: str, when: str):
    with Channel.create(memory="64k", slot_bytes="4k", form=None) as channel:
        reader = channel.reader()

        def read() -> Any:
            return reader.next_rows(10) if mode == "rows" else reader.next_batch(10)

        def write() -> None:
            with channel.writer() as writer:
                writer.write_rows(range(5000 if when != "last" else 10))
                writer.end_partition()
                writer.close(wait=True)

        thread, out = in_thread(write)
        if when == "first":
            wait_for(lambda: channel.status()["writers"] == 1)
            reader.terminate()
            ended(thread)  # the writer was told a form, since none will come from this reader
        else:
            read()
        if when == "last":
            assert not read()
        reader.terminate()
        if when == "twice":
            reader.terminate()
        assert not read()
        assert reader.ended
        ended(thread)
        assert out == [None]
        reader.close()
        wait_for(lambda: free(channel) == 16)


def test_a_fenced_writer_stays_fenced_and_its_next_answers_are_not_mixed_up():
    with Channel.create(memory="1m", form="columns", writers=2) as channel:
        old, new = channel.writer(), channel.writer()
        old.open_partition("p", 0)
        old.write_rows(range(5))
        new.open_partition("p", 1)
        for _ in range(2):
            with pytest.raises(Fenced, match="attempt 0 at partition p was replaced by attempt 1"):
                old._conn.status()
                old.write_rows(range(5))
        new.write_rows(range(3))
        new.end_partition()
        new.close()
        old.close()
        with channel.reader() as reader:
            assert [batch["c0"].tolist() for batch in reader.batches(64)] == [[0, 1, 2]]


def test_an_answer_that_comes_too_late_is_not_taken_for_the_next():
    gate = threading.Event()
    with broker_here() as broker:

        def answer(name: str, body: bytes) -> bytes:
            if name == "slow":
                gate.wait(10)
            return name.encode()

        broker.on_control = answer
        channel = Channel.attach(broker.address)
        with pytest.raises(StallTimeout):
            channel.control("slow", timeout=0.2)
        gate.set()
        assert channel.control("quick") == b"quick"
        channel.close()


def wait_for_rows(pipe: Any, address: str) -> None:
    reader = Channel.attach(address).reader()
    reader.open_columns(64, wait=False)
    pipe.send("waiting")
    try:
        reader.next_batch(64)
    except KeyboardInterrupt:
        pipe.send("interrupted")
    pipe.send(reader.next_batch(64).columns["c0"].tolist())
    reader.close()


def test_ctrl_c_during_a_wait_loses_nothing():
    with Channel.create(memory="64k", slot_bytes="4k", form=None) as channel:
        with child(wait_for_rows, channel.address) as reader:
            assert reader.hear() == "waiting"
            wait_for(lambda: channel.status()["reader"])
            os.kill(reader.process.pid, signal.SIGINT)
            assert reader.hear() == "interrupted"
            with channel.writer() as writer:
                writer.write_rows(range(64))
                writer.end_partition()
                assert reader.hear() == list(range(64))
            reader.join()


# ---- inference ---------------------------------------------------------------------------------------------------------------


def serve(channel: Channel, answer: Callable[[list[Any]], list[Any]], mode: str = "rows") -> None:
    with channel.reader(train_mode=False) as reader:
        while not reader.ended:
            if mode == "rows":
                reader.write_results(answer(reader.next_rows(33)))
            else:
                batch = reader.next_batch(64)
                if batch is not None:
                    reader.write_results(answer(batch.columns["c0"].tolist()))


@pytest.mark.parametrize("mode", ["rows", "columns"])
def test_results_of_several_streams_with_a_slow_one(mode: str):
    with Channel.create(memory="64k", slot_bytes="4k", form=mode, writers=3) as channel:  # type: ignore[arg-type]
        server, served = in_thread(lambda: serve(channel, lambda rows: [("r", row) for row in rows], mode))
        writers = [channel.writer() for _ in range(3)]
        first_row_back = threading.Event()

        def rows(index: int) -> Iterator[int]:
            for i in range(3000):
                if index == 0 and i == 1:
                    first_row_back.wait(20)  # its first result must come although its source waits
                yield index * 10_000 + i

        def exchange(index: int) -> list[Any]:
            out: list[Any] = []
            with writers[index] as writer:
                for results in writer.exchange(rows(index)):
                    out += results
            return out

        threads = [in_thread(lambda index=index: exchange(index)) for index in range(3)]
        ended(threads[1][0])
        ended(threads[2][0])
        first_row_back.set()
        ended(threads[0][0])
        ended(server)
        assert served == [None]
        for index, (_, out) in enumerate(threads):
            assert out == [[("r", index * 10_000 + i) for i in range(3000)]]


def test_results_do_not_pile_up_in_the_writer():
    with Channel.create(memory="1m", slot_bytes="4k", form="rows") as channel:
        server, _ = in_thread(lambda: serve(channel, lambda rows: rows))
        with channel.writer() as writer:
            seen = 0
            most = 0
            for results in writer.exchange(iter(range(200_000))):
                seen += len(results)
                most = max(most, sum(map(len, writer._results.ready)))
            assert seen == 200_000
            assert most < 100_000  # what slots of results hold, not the partition
        ended(server)


def test_results_larger_than_a_slot_and_too_many_results():
    with Channel.create(memory="64k", slot_bytes="4k", form="rows") as channel:
        writer = channel.writer()
        thread, out = in_thread(lambda: list(writer.exchange(iter([(1,), (2,)]))))
        reader = channel.reader(train_mode=False)
        rows = reader.next_rows(2)
        rows += reader.next_rows(2) if len(rows) < 2 else []
        with pytest.raises(ValueError, match="3 results for 2 rows"):
            reader.write_results([1, 2, 3])
        reader.write_results(["x" * 10_000, 2])
        for _ in range(20):  # the slot is not lost
            with pytest.raises(RowTooLarge, match="slot_bytes"):
                reader._results.flush()
            reader._results.add(0, ["x" * 10_000])
        with pytest.raises(RowTooLarge):
            reader.close()
        ended(thread)
        assert isinstance(out[0], ChannelClosed)
        assert "for 2 rows" in str(out[0])
        writer.close()
        wait_for(lambda: free(channel) == 16)


def exchange_forever(pipe: Any, address: str) -> None:
    with Channel.attach(address).writer() as writer:
        for i, _ in enumerate(writer.exchange((j,) for j in range(10**9))):
            if i == 20:
                pipe.send("middle")


def test_a_writer_killed_in_mid_exchange_leaves_its_slots_and_the_others_go_on():
    with Channel.create(memory="64k", slot_bytes="4k", form="rows", writers=2) as channel:
        other = channel.writer()
        server, served = in_thread(lambda: serve(channel, lambda rows: rows))
        with child(exchange_forever, channel.address) as victim:
            assert victim.hear() == "middle"
            victim.kill()
        with other as writer:
            rows = [(i,) for i in range(3000)]
            assert [row for results in writer.exchange(iter(rows)) for row in results] == rows
        ended(server)
        assert isinstance(served[0], WriterDied)  # the victim's partition was left unfinished
        wait_for(lambda: free(channel) == 16)


def test_an_exchange_given_up_and_another_after_it():
    with Channel.create(memory="64k", slot_bytes="4k", form="rows", writers=2) as channel:
        server, _ = in_thread(lambda: serve(channel, lambda rows: rows))
        with channel.writer() as writer:
            first = writer.exchange((i,) for i in range(5000))
            next(first)
            first.close()
            writer.end_partition()
            rows = [(i,) for i in range(10_000, 13_000)]
            assert [row for results in writer.exchange(iter(rows)) for row in results] == rows
        channel.end_feed()
        ended(server)


# ---- the broker --------------------------------------------------------------------------------------------------------------


class broker_here:
    """A broker in a thread of this process, so that a test can be its owner."""

    def __init__(self, **options: Any) -> None:
        self.broker = Broker(Segment.create("256k", "4k"), **options)
        self.work: list[tuple[Callable[[], Any], threading.Event]] = []
        self.broker.every(0.005, self._work)
        self.broker.do = self.do  # type: ignore[attr-defined]

    def do(self, what: Callable[[], Any]) -> None:
        done = threading.Event()
        self.work.append((what, done))
        assert done.wait(10)

    def _work(self) -> None:
        while self.work:
            what, done = self.work.pop(0)
            what()
            done.set()

    def __enter__(self) -> Any:
        self.thread = threading.Thread(target=self.broker.run, daemon=True)
        self.thread.start()
        return self.broker

    def __exit__(self, *exc: object) -> None:
        self.broker.stop()
        self.thread.join(10)
        assert not self.thread.is_alive(), "the broker's loop died or hangs"
        self.broker.close()


HELLO = {role: m.Hello(role, os.getpid(), started(os.getpid())) for role in ("writer", "reader", "control")}  # type: ignore[arg-type]
BAD_SCHEMA = msgspec.convert({"structure": "tuple", "columns": [{"name": "a", "kind": "fixed", "dtype": "no such"}]}, m.Schema)


@pytest.mark.parametrize(
    "frames",
    [
        [b""],
        [b"\xff" * 100],
        [os.urandom(1000)],
        [b"\x93\xa5Hello\xa6nobody"],
        [msgspec.msgpack.encode(["Hello", "nobody", 1, 1])],
        [msgspec.msgpack.encode(["Hello", "writer", -1, 1])],
        [msgspec.msgpack.encode(["Hello", "writer", 2**31, 1])],
        [msgspec.msgpack.encode(["Want", "input"])],
        [HELLO["writer"], HELLO["writer"]],
        [HELLO["writer"], msgspec.msgpack.encode(["Want", "neither"])],
        [HELLO["writer"], m.Want("output")],
        [HELLO["control"], m.Want("input")],
        [HELLO["writer"], m.Pin()],
        [HELLO["writer"], m.Done([0], [])],
        [HELLO["writer"], m.Done([], [0])],
        [HELLO["writer"], m.Done([], [99])],
        [HELLO["writer"], m.GiveBack(0)],
        [HELLO["writer"], m.Publish(0, 0, 1, 1, 0)],
        [HELLO["writer"], m.ClosePartition(0, 0)],
        [HELLO["writer"], m.Terminate()],
        [HELLO["writer"], m.Propose(BAD_SCHEMA)],
        [HELLO["writer"], m.OpenPartition("k", 0, False), m.OpenPartition("l", 0, False)],
        [HELLO["reader"], m.Pin()],
        [HELLO["reader"], m.Register(BAD_SCHEMA)],
        [HELLO["reader"], m.Propose(BAD_SCHEMA)],
        [HELLO["writer"], m.Welcome(3)],
    ],
    ids=lambda frames: "+".join(type(f).__name__ if not isinstance(f, bytes) else repr(f[:12]) for f in frames),
)
def test_the_broker_survives_bad_messages_and_drops_their_sender(frames: list[Any]):
    with Channel.create(memory="64k", slot_bytes="4k", form="columns") as channel:
        context = zmq.Context()
        socket = context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(f"ipc://{Address.parse(channel.address).socket}")
        for frame in frames:
            socket.send(frame if isinstance(frame, bytes) else m.encode(frame))
        last: Any = None
        while not isinstance(last, m.Failed):
            assert socket.poll(10_000), f"no answer, only {last}"
            last = m.decode_answer(socket.recv())
        assert last.kind == "ChannelError"
        assert "protocol error" in last.text
        status = channel.status()
        assert status["writers"] == 0
        assert not status["reader"]
        assert status["slots"]["free"] == 16
        context.destroy(linger=0)


def test_a_proposal_before_any_form():
    with Channel.create(memory="64k", slot_bytes="4k", form=None) as channel, channel.writer() as writer:
        writer._conn.send(m.Propose(m.Schema("bare", ())))
        with pytest.raises(TfosError, match="protocol error"):
            writer._conn.wait(lambda: None, "an answer", timeout=5)
        assert channel.status()["writers"] == 0


def test_a_spec_that_names_no_type():
    with Channel.create(memory="64k", slot_bytes="4k", form=None) as channel, channel.reader() as reader:
        with pytest.raises(FormError, match="no type of numpy"):
            reader.next_batch(1, spec={"x": ("(2,", None)})
        assert channel.status()["reader"] is False
