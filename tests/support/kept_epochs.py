"""A reader that keeps an epoch, by order of a broker that the test owns."""

from __future__ import annotations

import threading

from tests.support.helpers import ended, in_thread
from tfos_fast.channel import Channel
from tfos_fast.channel.protocol import messages as m


class Kept:
    """A channel whose reader keeps the first epoch; a writer of partitions in a thread."""

    def __init__(self, broker, kind, partitions, limit=0, nulls=None):
        self.broker = broker
        self.channel = Channel.attach(broker.address)
        self.reader = self.channel.reader()
        if nulls is not None:
            self.reader.open_columns(64, nulls=nulls, wait=False)
        self.replays = []
        broker.do(lambda: broker.feed.keep(kind, limit))
        self.thread, self.wrote = in_thread(lambda: self.write(partitions))

    def write(self, partitions):
        try:
            with self.channel.writer() as writer:
                for number, rows in enumerate(partitions):
                    writer.open_partition(f"p{number}", 0)
                    writer.write_rows(rows)
                    writer.end_partition()
        except Exception as error:
            failed = m.Failed("NodeFailed", repr(error))
            self.broker.do(lambda: self.broker.fail(failed))  # the reader must not wait for what does not come
            raise
        self.broker.finish_epoch()

    def replay(self, seed=None):
        done = threading.Event()
        self.replays.append(done)
        self.broker.do(lambda: self.broker.feed.replay(seed, done.set))
        self.broker.finish_epoch()
        return done

    def epoch(self, n):
        """Batches until the end of the epoch."""
        found = []
        while (batch := self.reader.next_batch(n, epoch_ends=True)) is not None:
            found.append({name: array.copy() for name, array in batch.columns.items()})
        return found

    def close(self):
        ended(self.thread)
        assert self.wrote == [None]
        self.reader.close()
        self.channel.close()
