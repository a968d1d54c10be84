"""Arrays that outlive their reader, readers that hoard, ends that are dropped without close."""

from __future__ import annotations

import gc
import multiprocessing
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.support.helpers import ended, free, in_thread, wait_for
from tfos_fast.channel import Channel
from tfos_fast.errors import TfosError


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
