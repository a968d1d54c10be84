"""Several slots in one message: what fills or ends within moments is told of together, and nothing waits for company for long."""

from __future__ import annotations

import threading
import time
from collections import Counter

import numpy as np
import pytest

from tests.support.helpers import broker_here, ended, in_thread
from tfos_fast.channel import Channel
from tfos_fast.channel.broker.broker import _MOST_AT_ONCE
from tfos_fast.channel.protocol import messages as m
from tfos_fast.channel.reader.inbox import _PATIENCE_MS, Inbox
from tfos_fast.channel.transport.connection import STARVE_AFTER_MS
from tfos_fast.channel.transport.local import LocalConnection

ROWS, WIDTH = 64, 512  # 64 rows of 512 float64 are 256 kB: with 64 kB slots each partition fills several within a moment


def counted(broker):
    """Counts what arrives at a broker, by the name of the message."""
    heard = Counter()
    handle = broker.feed.handle

    def count(peer, message):
        heard[type(message).__name__] += 1
        handle(peer, message)

    broker.feed.handle = count
    return heard


def test_slots_that_come_quickly_share_messages(monkeypatch):
    # However slow the machine is: these slots come quickly.
    monkeypatch.setattr(LocalConnection, "hold_s", 60.0)
    monkeypatch.setattr("tfos_fast.channel.reader.acks._TELL_S", 60.0)
    values = np.arange(ROWS * WIDTH, dtype=np.float64).reshape(ROWS, WIDTH)
    together = []
    with broker_here("8m", "64k") as broker:
        heard = counted(broker)
        channel = Channel.attach(broker.address)
        reader = channel.reader()

        def write():
            with channel.writer() as writer:
                send = writer._conn._put_all
                writer._conn._put_all = lambda messages: (together.append(len(messages)), send(messages))
                for part in range(20):
                    writer.open_partition(f"p{part}", 0)
                    writer.write_rows((row,) for row in values + part)
                    writer.end_partition()
            broker.do(broker.end_feed)

        thread, wrote = in_thread(write)
        seen = [batch["c0"].copy() for batch in reader.batches(8)]
        ended(thread)
        assert wrote == [None]
        assert np.array_equal(np.concatenate(seen), np.concatenate([values + part for part in range(20)]))
        status = broker.status()
        assert status["rows_taken"] == status["rows_published"] == 20 * ROWS
        assert together
        assert max(together) > 1
        assert heard["Done"] < heard["Publish"]
        reader.close()
        channel.close()


def test_the_last_slot_of_a_partition_is_told_of_at_once():
    with broker_here("8m", "64k") as broker:
        channel = Channel.attach(broker.address)
        reader = channel.reader()
        gone = threading.Event()

        def write():
            writer = channel.writer()
            writer.open_partition("p", 0)
            writer.write_rows((float(i),) for i in range(100))
            writer.end_partition()
            writer.close(wait=True)  # until every row is taken
            gone.set()

        thread, wrote = in_thread(write)
        batch = reader.next_batch(100)
        assert batch is not None
        assert batch.columns["c0"].sum() == 4950
        assert reader.next_batch(100, timeout=0.1) is None  # the program reads on, and nothing more comes
        assert gone.wait(10)
        ended(thread)
        assert wrote == [None]
        reader.close()
        channel.close()


def test_a_writer_that_rests_between_calls_has_told_of_every_whole_slot(monkeypatch):
    monkeypatch.setattr(LocalConnection, "hold_s", 60.0)
    values = np.arange(ROWS * WIDTH, dtype=np.float64).reshape(ROWS, WIDTH)
    with broker_here("8m", "64k") as broker, Channel.attach(broker.address) as channel, channel.reader() as reader:

        def write():
            writer = channel.writer()
            writer.write_rows((row,) for row in values)
            return writer  # which does nothing more

        thread, wrote = in_thread(write)
        seen = [reader.next_batch(8, timeout=5.0).columns["c0"].copy() for _ in range(ROWS // 8 - 1)]
        ended(thread)
        assert np.array_equal(np.concatenate(seen), values[:-8])  # the last rows wait for more of their slot
        wrote[0].close()


def test_a_writer_that_fails_has_told_of_every_whole_slot(monkeypatch):
    monkeypatch.setattr(LocalConnection, "hold_s", 60.0)
    values = np.arange(ROWS * WIDTH, dtype=np.float64).reshape(ROWS, WIDTH)

    def rows():
        yield from ((row,) for row in values)
        raise OSError("the source is gone")

    with broker_here("8m", "64k") as broker, Channel.attach(broker.address) as channel, channel.reader() as reader:

        def write():
            with channel.writer() as writer, pytest.raises(OSError, match="the source is gone"):
                writer.open_partition("p", 0)
                writer.write_rows(rows())
                writer.close()

        thread, _ = in_thread(write)
        seen = [reader.next_batch(8, timeout=5.0).columns["c0"].copy() for _ in range(ROWS // 8 - 1)]
        ended(thread)
        assert np.array_equal(np.concatenate(seen), values[:-8])


def test_a_reader_that_starves_gets_whole_slots_before_parts_of_one(monkeypatch):
    monkeypatch.setattr(LocalConnection, "hold_s", 60.0)
    published = []
    with broker_here("8m", "64k") as broker, Channel.attach(broker.address) as channel, channel.reader() as reader:
        handle = broker.feed.handle

        def note(peer, message):
            if isinstance(message, m.Publish):
                published.append(message.rows == message.capacity)
            handle(peer, message)

        broker.feed.handle = note
        gone_on = threading.Event()

        def rows():
            values = np.zeros(WIDTH)
            for _ in range(40):  # two slots and a half
                yield (values,)
            while not gone_on.is_set():  # a writer that is never long away, and has little more
                time.sleep(0.02)
                if len(published) < 2:
                    yield (values,)

        def write():
            with channel.writer() as writer:
                writer.write_rows(rows())

        thread, wrote = in_thread(write)
        assert [reader.next_batch(8, timeout=5.0).rows for _ in range(3)] == [8, 8, 8]
        assert published[:2] == [True, True]
        gone_on.set()
        ended(thread)
        assert wrote == [None]


def test_how_long_a_reader_waits_before_it_asks(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("tfos_fast.channel.reader.inbox.time.monotonic", lambda: now[0])
    inbox = Inbox(None, None, None, None, train=True)  # type: ignore[arg-type]

    def slot(after: float) -> int:
        now[0] += after
        inbox.put(m.Deliver(0, 0, 1, 1, 0, None))
        return inbox._patience()

    assert inbox._patience() == STARVE_AFTER_MS  # the first rows of an epoch are wanted at once
    assert slot(10.0) == STARVE_AFTER_MS
    assert slot(0.03) == 60
    assert slot(0.0) == 60  # it came with the one before
    assert slot(0.0) == 60
    assert slot(0.01) == 60
    assert slot(0.01) == 20
    assert slot(5.0) == _PATIENCE_MS
    inbox.put(m.EpochEnd())
    assert inbox._patience() == STARVE_AFTER_MS


def test_messages_in_one_frame_after_another_and_too_many():
    import zmq

    from tfos_fast.channel.protocol.address import Address
    from tfos_fast.cluster.protocol.identity import this_process

    me = this_process()
    with broker_here("1m", "64k") as broker, zmq.Context() as context, context.socket(zmq.DEALER) as client:
        client.linger = 0
        client.connect(f"ipc://{Address.parse(broker.address).socket}")
        hello = m.encode(m.Hello("control", me.pid, me.started))
        client.send_multipart([hello, m.encode(m.AskStatus()), m.encode(m.AskStatus())])
        answers = Counter(type(m.decode_answer(client.recv())) for _ in range(3))
        assert answers == {m.Welcome: 1, m.Status: 2}
        client.send_multipart([m.encode(m.AskStatus())] * (_MOST_AT_ONCE + 1))
        answer = m.decode_answer(client.recv())
        assert isinstance(answer, m.Failed)
        assert f"{_MOST_AT_ONCE + 1} messages at once" in answer.text


@pytest.mark.parametrize("slots", [4, 16, 64])
def test_the_rows_pass_through_few_slots_and_many(slots):
    """However few there are, or many: the writer gets those that it needs."""
    with broker_here(slots * (64 << 10), "64k") as broker:
        channel = Channel.attach(broker.address)
        reader = channel.reader()

        def write():
            with channel.writer() as writer:
                writer.open_partition("p", 0)
                writer.write_rows((np.full(WIDTH, i, np.float64),) for i in range(2000))
                writer.end_partition()
            broker.do(broker.end_feed)

        thread, wrote = in_thread(write)
        assert [batch["c0"][0, 0] for batch in reader.batches(1)] == list(range(2000))
        ended(thread)
        assert wrote == [None]
        reader.close()
        channel.close()
