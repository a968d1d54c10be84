"""Two feeds of one node: a broker that is served by another's loop, writers that make way, and readers that ask for epochs."""

from __future__ import annotations

import threading

import pytest

import tfos_fast
from tests.support.helpers import ended, in_thread
from tfos_fast.channel import Channel
from tfos_fast.channel.broker.broker import Broker
from tfos_fast.channel.broker.feed import Feed
from tfos_fast.channel.host.segment import Segment
from tfos_fast.channel.protocol import messages as m
from tfos_fast.cluster.protocol.feed_keys import check_name, feed_of
from tfos_fast.errors import Yielded


@pytest.fixture
def two():
    """Addresses of a default feed and of its guest, both served by one loop."""
    host = Broker(Segment.create("16k", "4k"))
    guest = Broker(Segment.create("16k", "4k"), host=host)
    thread = threading.Thread(target=host.run)
    thread.start()
    yield host, guest
    host.stop()
    thread.join()
    host.close()
    assert not guest.directory.exists()


def test_a_full_feed_does_not_block_the_other_and_its_writer_makes_way(two):
    host, guest = two
    with Channel.attach(host.address) as one, Channel.attach(guest.address) as other:
        with one.reader() as reader, other.reader() as other_reader:
            reader.open_columns(8, wait=False)
            other_reader.open_columns(8, wait=False)
            writer = one.writer()
            writer.open_partition("k", 1)
            writer.patience = 0.1  # so long for a slot, and all are full
            with pytest.raises(Yielded, match="partition k is left at row"):
                writer.write_rows(range(10**6))
            published = one.status()["rows_published"]
            assert 0 < published < 10**6
            writer.close()
            host.feed.make_yield(True)
            with pytest.raises(Yielded), one.writer() as late:
                late.open_partition("l", 1)
            with other.writer() as beside:
                beside.write_rows(range(96))
            assert [int(v) for _ in range(12) for v in other_reader.next_batch(8).columns["c0"]] == list(range(96))
            host.feed.make_yield(False)
            got = [int(v) for _ in range(published // 8) for v in reader.next_batch(8).columns["c0"]]
            with one.writer() as again:
                assert again.open_partition("k", 2) == published  # the watermark
                again.write_rows(range(published, published + 48))
                again.end_partition()
                got += [int(v) for _ in range(6) for v in reader.next_batch(8).columns["c0"]]
            assert got == list(range(published + 48))


def test_a_guest_that_is_terminated_ends_its_writers_and_no_others(two):
    host, guest = two
    with Channel.attach(host.address) as one, Channel.attach(guest.address) as other:
        with one.reader() as reader, other.reader() as other_reader:
            reader.open_columns(8, wait=False)
            other_reader.open_columns(8, wait=False)

            def write() -> bool:
                with other.writer() as writer:
                    writer.open_partition("g", 1)
                    writer.write_rows(range(10**9))
                    return writer.terminated

            thread, out = in_thread(write)
            assert len(other_reader.next_batch(8).columns["c0"]) == 8
            other_reader.terminate()
            ended(thread)
            assert out == [True]
            with other.writer() as late:  # the next evaluation's
                late.open_partition("h", 1)
                assert late.terminated
            with one.writer() as beside:
                beside.write_rows(range(96))
                beside.end_partition()
            assert [int(v) for _ in range(12) for v in reader.next_batch(8).columns["c0"]] == list(range(96))


def test_a_reader_asks_once_for_each_epoch_and_never_for_one_that_has_ended():
    feed = Feed(4, form=m.Form("columns", 8))
    asked = []
    feed.on_demand = lambda epoch, ends: asked.append(epoch)
    feed.hello(b"r", m.Hello("reader", 1, 1))
    feed.handle(b"r", m.OpenReader(m.Form("columns", 8), True))
    for message in (m.Starving(0, True), m.Starving(0, True)):
        feed.handle(b"r", message)
    feed.end_epoch()
    feed.handle(b"r", m.Starving(0, True))  # said before the end of the epoch came to it
    assert asked == [0]
    feed.handle(b"r", m.Starving(1, True))
    assert asked == [0, 1]


def test_a_writer_that_waits_for_the_form_makes_way():
    feed = Feed(4)
    feed.hello(b"w", m.Hello("writer", 1, 1))
    feed.handle(b"w", m.OpenPartition("k", 0, False))
    feed.outbox.clear()
    feed.make_yield(True)
    assert [type(message) for _, message in feed.outbox] == [m.Yield, m.Refused]
    assert feed.outbox[1][1].kind == "Yielded"


def test_names():
    assert feed_of("offer/validation/3/0") == "validation"
    assert feed_of("feed1/0/2") == ""
    for bad in ("", "a/b", "x" * 65, "a b"):
        with pytest.raises(ValueError, match="name"):
            check_name(bad)


def test_the_memory_of_feeds_is_said_by_name():
    with pytest.raises(ValueError, match=r"feeds=\['validation'\] is no mapping"):
        tfos_fast.reserve(None, 2, feeds=["validation"])
