"""Ends of a feed and of waits: writers that leave, terminate, fences, late answers, Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.helpers import broker_here, child, ended, free, in_thread, wait_for
from tfos_fast.channel import Channel
from tfos_fast.errors import Fenced, StallTimeout, WriterDied


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
    try:
        pipe.send("waiting")  # the interrupt may come before the call returns
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
